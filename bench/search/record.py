"""Records whole knob spaces of single convolutions on this CPU: ``python -m bench.search.record [NAME ...]``.

Kernels are compiled once (``--build`` does that alone, and may run while others use the machine). Then every point is
visited for a few calls, again and again, each round in another order; those near the best are visited more often. The
machine may be shared, and foreign load slows whatever runs at the time: that is told from a visit's neighbours and
taken out (``bench.search.drift``). Of what is left a point's time is the median of its visits. Each visit goes to
OUT/NAME.jsonl as soon as it is known, so an interrupted recording goes on where it was.
The result is bench/search/recordings/NAME.json.gz.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.search.drift import without_drift
from tuner.build.objects import Objects
from tuner.graph import zoo
from tuner.graph.load import import_model
from tuner.graph.passes.registry import SLICING
from tuner.measure.compiling import compile_ahead
from tuner.measure.device import detect_cpu, toolchain
from tuner.measure.local import LocalRunner
from tuner.measure.options import MeasureOptions
from tuner.measure.replay import Point, Recording
from tuner.search.fusion import greedy
from tuner.search.questions import questions
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
VISITS = ((8, float("inf")), (40, 1.2), (100, 1.07))  # so many for points within this factor of the best
PACKED = "oc_t"  # the knob that decides how weights are packed
OPTIONS = MeasureOptions(
    min_samples=3, max_samples=3, sample_seconds=0.0, early_samples=3, retake_factor=0.0, patience=0.0, chunk=16
)  # a visit is short, and waits for nothing


@dataclass
class Log:
    """A recording in the making: all visits to all points, on disk line by line."""

    path: Path
    visits: list[tuple[str, float]] = field(default_factory=list)  # (knobs as JSON, seconds), in order
    failures: dict[str, list[Failure]] = field(default_factory=dict)  # by knobs

    def __post_init__(self) -> None:
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # half a line, left by a kill
            failure = row["failure"] and Failure(FailureKind(row["failure"][0]), row["failure"][1])
            self._take(row["knobs"], row["seconds"], failure)

    def add(self, trial: Trial) -> None:
        failure, knobs = trial.failure, dict(trial.candidate.knobs)
        reason = failure and (failure.kind.value, failure.message)
        with self.path.open("a") as file:
            file.write(json.dumps({"knobs": knobs, "seconds": trial.seconds, "failure": reason}) + "\n")
        self._take(knobs, trial.seconds, failure and replace(failure, stderr=""))

    def _take(self, knobs: Mapping[str, int], seconds: float | None, failure: Failure | None) -> None:
        if failure is not None:
            self.failures.setdefault(key_of(knobs), []).append(failure)
        elif seconds is not None:
            self.visits.append((key_of(knobs), seconds))

    def results(self) -> dict[str, Point]:
        """Points as they will be recorded, by knobs: the quartiles of their visits in calm moments."""
        names = list(dict.fromkeys(key for key, _ in self.visits))
        index = {key: i for i, key in enumerate(names)}
        kernels = np.asarray([index[key] for key, _ in self.visits], dtype=int)
        calm = without_drift(kernels, np.asarray([seconds for _, seconds in self.visits]))
        found = {k: Point(json.loads(k), failure=failures[-1]) for k, failures in self.failures.items()}
        for i, key in enumerate(names):
            quartiles = np.quantile(calm[kernels == i], (0.25, 0.5, 0.75))
            found[key] = Point(json.loads(key), tuple(float(q) for q in quartiles))
        return found

    def missing(self, points: Sequence[Mapping[str, int]]) -> list[Mapping[str, int]]:
        """Those of ``points`` that are to be visited in the next round."""
        known, counts = self.results(), Counter(key for key, _ in self.visits)
        best = min((p.seconds for p in known.values() if p.seconds is not None), default=0.0)

        def due(knobs: Mapping[str, int]) -> bool:
            key = key_of(knobs)
            found = known.get(key)
            if found is not None and found.seconds is not None:
                return any(counts[key] < wanted and found.seconds <= factor * best for wanted, factor in VISITS)
            failures = self.failures.get(key, [])
            return len(failures) < 2 and all(f.kind in RETRYABLE for f in failures)

        return [p for p in points if due(p)]


def key_of(knobs: Mapping[str, int]) -> str:
    return json.dumps(dict(knobs), sort_keys=True)


def build(name: str, out: Path) -> Objects:
    """Compile what is missing of one space."""
    device = detect_cpu()
    candidate, _, points = question(*LAYERS[name])
    objects = Objects(out / f"{name}.objects")
    with TemporaryDirectory() as folder:
        compile_ahead([replace(candidate, knobs=p) for p in points], device, objects, Path(folder))
    return objects


def record(name: str, out: Path, pause: Path | None, remark: str = "", seed: int = 0) -> Recording:
    """Visit what is missing of one space; returns the whole."""
    device = detect_cpu()
    candidate, values, points = question(*LAYERS[name])
    out.mkdir(parents=True, exist_ok=True)
    options = replace(OPTIONS, objects=str(build(name, out).folder))
    log = Log(out / f"{name}.jsonl")
    random = Random(seed)

    def candidates(todo: Sequence[Mapping[str, int]]) -> Iterator[Candidate]:
        for knobs in todo:
            while pause is not None and pause.exists():
                time.sleep(1)
            yield replace(candidate, knobs=knobs)

    with LocalRunner(device, options) as runner:
        while todo := log.missing(points):
            print(f"{name}: {len(todo)} of {len(points)} points", file=sys.stderr, flush=True)
            random.shuffle(todo)  # so that drift falls on all knobs alike ...
            todo.sort(key=lambda p: p.get(PACKED, 0))  # ... but weights are packed a few times a round
            for trial in runner.run(candidates(todo)):
                log.add(trial)
    note = (
        f"Recorded on {time.strftime('%Y-%m-%d')} on a shared machine with {device.cores} cores ({device.model}, "
        f"{', '.join(device.features)}); {len(log.visits)} visits to {len(points)} points, "
        "what their moments did to them taken out."
    )
    known = log.results()
    found = tuple(known[key_of(p)] for p in points if key_of(p) in known)
    note = f"{note} {remark}".strip()
    return Recording(name, note, device, toolchain(), PROTOCOL, candidate, values, found)


def question(model: str, layer: str) -> tuple[Candidate, dict[str, tuple[int, ...]], list[dict[str, int]]]:
    """(candidate with default knobs on all cores, knobs' values, points) of the planned block with this layer.

    Knobs in FIXED have one value.
    """
    device = detect_cpu()
    with TemporaryDirectory() as folder:
        graph = import_model(zoo.write(model, Path(folder) / f"{model}.onnx"), disabled=SLICING).graph
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
    parser.add_argument("--out", type=Path, default=Path("out/recordings"), help="where visits are kept line by line")
    parser.add_argument("--build", action="store_true", help="only compile; measure nothing")
    parser.add_argument("--pause", type=Path, metavar="FILE", help="measure nothing while FILE exists")
    parser.add_argument("--remark", default="", help="circumstances to write into the recording")
    options = parser.parse_args(arguments)
    if options.build:
        for name in options.names or LAYERS:
            print(f"{name}: {len(list(build(name, options.out).folder.glob('*.json')))} kernels", flush=True)
        return 0
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
