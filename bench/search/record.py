"""Records whole knob spaces of single convolutions on this CPU: ``python -m bench.search.record [NAME ...]``.

Every trial goes to OUT/NAME.jsonl as soon as it is known, so an interrupted recording goes on where it was. The machine
may be shared, and foreign load only ever slows: of a trial's samples the fastest third counts, and of a point's trials
the fastest that another one confirms. Contenders (near the best) are measured until two trials agree, and whatever
scatters is measured again. The result is bench/search/recordings/NAME.json.gz.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tuner.measure.options import MeasureOptions
from tuner.measure.replay import Point, Recording
from tuner.types import PROTOCOL, RETRYABLE, Candidate, Failure, FailureKind, Trial

RECORDINGS = Path(__file__).parent / "recordings"
LAYERS = {  # name -> (model of the zoo, layer)
    "resnet18-conv11": ("resnet18", "Conv_11"),  # 3x3 stride 2, 128 -> 256 channels, 14x14
    "resnet18-conv14": ("resnet18", "Conv_14"),  # 3x3, 256 -> 256, 14x14
    "resnet50-conv28": ("resnet50", "Conv_28"),  # 1x1 stride 2, 512 -> 1024, 14x14
    "squeezenet-conv26": ("squeezenet", "Conv_26"),  # 1x1, 512 -> 1000, 13x13
    "inception_v1-conv54": ("inception_v1", "Conv_54"),  # 3x3, 192 -> 384, 6x6
    "squeezenet-conv22": ("squeezenet", "Conv_22"),  # 3x3, 64 -> 256, 13x13
    "inception_v2-conv57": ("inception_v2", "Conv_57"),  # 1x1, 1024 -> 192, 7x7
}
FIXED = ("order",)  # knobs that keep their default, so that a space has 250 to 800 points
CONTENDER = 1.2  # times the best: such points are measured until two trials agree ...
AGREE = 0.03  # ... within this relative difference
SCATTER = 0.1  # others are measured again if what counts of their samples differs by more
TRIALS = 4  # of one point at most
OPTIONS = MeasureOptions(
    min_samples=15, sample_seconds=0.04, early_samples=6, early_ratio=2.5, patience=0.5, waiting=0.4
)  # it waits for calm cores more often than a job does


@dataclass
class Log:
    """A recording in the making: all trials of all points, on disk line by line."""

    path: Path
    trials: dict[str, list[Point]] = field(default_factory=dict)  # knobs as JSON -> trials

    def __post_init__(self) -> None:
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # half a line, left by a kill
            failure = row["failure"] and Failure(FailureKind(row["failure"][0]), row["failure"][1])
            self._take(Point(row["knobs"], fastest_third(row["samples"]), failure))

    def add(self, trial: Trial) -> None:
        failure, knobs = trial.failure, dict(trial.candidate.knobs)
        reason = failure and (failure.kind.value, failure.message)
        with self.path.open("a") as file:
            file.write(json.dumps({"knobs": knobs, "samples": trial.samples, "failure": reason}) + "\n")
        self._take(Point(knobs, fastest_third(trial.samples), failure and replace(failure, stderr="")))

    def _take(self, point: Point) -> None:
        self.trials.setdefault(key_of(point.knobs), []).append(point)

    def result(self, knobs: Mapping[str, int]) -> Point | None:
        """A point as it will be recorded; None if it was never tried.

        The fastest trial that a second one confirms. Where none is confirmed: the faster of two, the middle of more,
        because among many the fastest is lucky.
        """
        found = self.trials.get(key_of(knobs), [])
        good = sorted((p for p in found if p.samples), key=lambda p: p.seconds or 0.0)
        for a, b in pairwise(good):
            if (b.seconds or 0.0) <= (1 + AGREE) * (a.seconds or 0.0):
                return a
        return good[(len(good) - 1) // 2] if good else (found[-1] if found else None)

    def doubtful(self, knobs: Mapping[str, int], best: float) -> bool:
        """Whether a point is to be measured once more."""
        found = self.trials[key_of(knobs)]
        times = sorted(p.seconds for p in found if p.seconds is not None)
        if len(found) >= TRIALS:
            return False
        if not times:
            return len(found) < 2 and found[0].failure is not None and found[0].failure.kind in RETRYABLE
        if times[0] <= CONTENDER * best:
            return not any(b <= (1 + AGREE) * a for a, b in pairwise(times))
        return len(found) < 2 and max(found[0].samples) > (1 + SCATTER) * min(found[0].samples)


def fastest_third(samples: Sequence[float]) -> tuple[float, ...]:
    """What counts of a trial's samples, at least three of them, ascending."""
    return tuple(sorted(samples)[: max(3, len(samples) // 3)])


def key_of(knobs: Mapping[str, int]) -> str:
    return json.dumps(dict(knobs), sort_keys=True)


def record(name: str, out: Path, pause: Path | None, remark: str = "", seed: int = 0) -> Recording:
    """Measure what is missing of one space; returns the whole."""
    from tuner.measure.device import detect_cpu, toolchain
    from tuner.measure.local import LocalRunner

    device = detect_cpu()
    candidate, values, points = question(*LAYERS[name])
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / f"{name}.jsonl")
    order = random.Random(seed).sample(points, len(points))  # so that drift falls on all knobs alike

    def missing() -> list[dict[str, int]]:
        fresh = [p for p in order if log.result(p) is None]
        if fresh:
            return fresh
        best = min(p.seconds for p in map(log.result, order) if p is not None and p.seconds is not None)
        return [p for p in order if log.doubtful(p, best)]

    def candidates(todo: Sequence[Mapping[str, int]]) -> Iterator[Candidate]:
        for knobs in todo:
            while pause is not None and pause.exists():
                time.sleep(1)
            yield replace(candidate, knobs=knobs)

    with LocalRunner(device, OPTIONS) as runner:
        while todo := missing():
            print(f"{name}: {len(todo)} of {len(points)} points", file=sys.stderr, flush=True)
            for trial in runner.run(candidates(todo)):
                log.add(trial)
    note = (
        f"Recorded on {time.strftime('%Y-%m-%d')} on a shared machine with {device.cores} cores ({device.model}, "
        f"{', '.join(device.features)}); {sum(map(len, log.trials.values()))} trials of {len(points)} points."
    )
    found = tuple(p for p in map(log.result, points) if p is not None)
    note = f"{note} {remark}".strip()
    return Recording(name, note, device, toolchain(), PROTOCOL, candidate, values, found)


def question(model: str, layer: str) -> tuple[Candidate, dict[str, tuple[int, ...]], list[dict[str, int]]]:
    """(candidate with default knobs on all cores, knobs' values, points) of the planned block with this layer.

    Knobs in FIXED have one value.
    """
    from tuner.graph import zoo
    from tuner.graph.load import import_model
    from tuner.measure.device import detect_cpu
    from tuner.search.fusion import greedy
    from tuner.search.questions import questions

    device = detect_cpu()
    with TemporaryDirectory() as folder:
        graph = import_model(zoo.write(model, Path(folder) / f"{model}.onnx")).graph
    plan = greedy(graph, device, device.cores)
    asked: dict[tuple[str, ...], Any] = questions(
        plan, graph, device, cores=(device.cores,), precision="fp32", seed=0, residency="dram", alternatives=False
    )
    found = next(q for layers, q in asked.items() if layer in layers)
    default = found.space.default
    values = {n: (default[n],) if n in FIXED else tuple(choices) for n, choices in found.space.knobs.items()}
    points = [p for p in found.space.points if all(p[n] == default[n] for n in FIXED)]
    return found.main.with_knobs(default), values, points


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search.record", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(LAYERS)}")
    parser.add_argument("--out", type=Path, default=Path("out/recordings"), help="where trials are kept line by line")
    parser.add_argument("--pause", type=Path, metavar="FILE", help="measure nothing while FILE exists")
    parser.add_argument("--remark", default="", help="circumstances to write into the recording")
    options = parser.parse_args(arguments)
    for name in options.names or LAYERS:
        found = record(name, options.out, options.pause, options.remark)
        path = RECORDINGS / f"{name}.json.gz"
        found.save(path)
        failed = sum(p.failure is not None for p in found.points)
        size = path.stat().st_size / 1024
        print(f"{name}: {len(found.points)} points, {failed} failed, best {found.best * 1e6:.1f} us, {size:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
