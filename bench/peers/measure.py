"""One row of the comparison: a model, a number of threads and a budget; everybody on the same cores, in turns."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.peers import metaschedule
from bench.peers.bounding import bound, parts
from bench.peers.built import Built, build, write_model
from bench.peers.quantised import quantise
from bench.peers.roofs import roof_of
from bench.peers.sidebyside import BenchReport, bench
from tuner.errors import UserError
from tuner.graph.load import import_model
from tuner.graph.passes.registry import SLICING
from tuner.inputs import Inputs
from tuner.measure.contest import Contestant, ratio
from tuner.measure.device import detect_cpu
from tuner.precision import ACCURACY, check_features
from tuner.types import Device

FLOAT32 = ("onnxruntime", "openvino", "torch", "torch-compile", "tvm")
BF16, INT8 = "openvino-bf16", "onnxruntime-int8"
_REFERENCE = "onnxruntime"  # what errors are told against
_ROUNDING = ("images", "stored_bf16", "kept_fp32")  # what is kept of a report
_BF16_FEATURES = {"avx512_bf16", "amx_bf16"}  # without them bf16 is emulated, which nobody would use


def peers_row(
    model: str, threads: int, seconds: float, rounds: int, out: Path, peers: Sequence[str] = FLOAT32
) -> dict[str, Any]:  # fmt: skip
    """Tune with no trials and with a budget, then time both and the peers. What failed stands in ``error``."""
    row: dict[str, Any] = {**_head("peers", model, threads, seconds), "rounds": rounds}
    with confined(threads) as device:
        path, made = build_for_peers(model, threads, seconds, out)
        report = bench(path, made.artifacts, peers, threads=threads, rounds=rounds)
        roof = roof_of(device, out / "roofs.jsonl")
        graph = import_model(path, disabled=SLICING).graph
        tuned = made.artifacts.get("tuned")
        spent = None if tuned is None else parts(_blocks(tuned), import_model(path).graph, roof, device)
    ours = {name: ratios_over(report, name) for name in made.artifacts}
    return row | {
        "tuning": made.tunings.get("tuned"), "default": made.tunings.get("default"), "bench": report.to_json(),
        "ratios": ours, "roof": asdict(roof), "bound_ms": 1e3 * bound(graph, roof, device), "parts": spent,
        "error": "; ".join(made.problems) or None,
    }  # fmt: skip


def _blocks(artifact: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((artifact / "report.json").read_text())["blocks"]
    return found


def build_for_peers(model: str, threads: int, seconds: float, out: Path) -> tuple[Path, Built]:
    """The model's file and its tunings for ``peers_row``, in ``out``."""
    with confined(threads):
        path = write_model(model, _folder(out, "peers", model, threads, seconds))
        wanted = {"tuned": ["--seconds", f"{seconds:g}"], "default": ["--trials", "0"]}
        return path, build(path, wanted, seconds)


def bf16_row(model: str, threads: int, seconds: float, rounds: int, out: Path) -> dict[str, Any]:
    """Tune in bf16 with a budget, as exactly as the peer in bf16 computes but no less than usual; time both.

    Raises UserError (``no-bf16``) on a processor without bf16 arithmetic.
    """
    row: dict[str, Any] = {**_head("bf16", model, threads, seconds), "rounds": rounds}
    with confined(threads) as device:
        if not _BF16_FEATURES & set(device.features):
            raise UserError("This processor has no bf16 arithmetic: it would be emulated.", code="no-bf16")
        path = write_model(model, _folder(out, "bf16", model, threads, seconds))
        found = _lowered("bf16", BF16, path, threads, seconds, rounds, peers=(_REFERENCE, BF16))
    return row | found


def int8_row(model: str, threads: int, seconds: float, rounds: int, out: Path) -> dict[str, Any]:
    """The same in int8, against the model as ONNX Runtime's tools quantise it with the inputs that ours calibrates on.

    Raises UserError (``bad-precision``) on a processor without AVX512-VNNI.
    """
    row: dict[str, Any] = {**_head("int8", model, threads, seconds), "rounds": rounds}
    with confined(threads) as device:
        check_features("int8", device.features)
        path = write_model(model, _folder(out, "int8", model, threads, seconds))
        inputs = Inputs(import_model(path).graph, {}).sets
        quantised = quantise(path, path.parent / "quantised.onnx", inputs)
        peer = Contestant(INT8, _REFERENCE, quantised, {"precision": "int8"})
        found = _lowered("int8", INT8, path, threads, seconds, rounds, peers=(_REFERENCE,), others=(peer,))
    return row | found


def _lowered(
    precision: str, against: str, path: Path, threads: int, seconds: float, rounds: int,
    *, peers: Sequence[str], others: Sequence[Contestant] = (),
) -> dict[str, Any]:  # fmt: skip
    """The rest of such a row; ``against``: the one of ``peers`` or ``others`` that computes in the precision."""

    def measured(artifacts: Mapping[str, Path], rounds: int) -> BenchReport:
        return bench(path, artifacts, peers, threads=threads, rounds=rounds, precision=precision, others=others)

    theirs = measured({}, 1)[against].max_rel_error
    limit = max(ACCURACY[precision], theirs or 0.0)
    options = ["--seconds", f"{seconds:g}", "--precision", precision, "--accuracy", f"{limit:g}"]
    made = build(path, {"tuned": options}, seconds)
    report = measured(made.artifacts, rounds)
    tuned = made.artifacts.get("tuned")
    stored = None if tuned is None else json.loads((tuned / "report.json").read_text())["rounding"]
    over = None if tuned is None else ratio(report.result, "tuned", against)
    return {
        "tuning": made.tunings.get("tuned"), "limit": limit, "bench": report.to_json(),
        "ratio": None if over is None else asdict(over), "error": "; ".join(made.problems) or None,
        "rounding": None if stored is None else {name: stored[name] for name in _ROUNDING},
    }  # fmt: skip


def metaschedule_row(model: str, threads: int, seconds: float, rounds: int, out: Path) -> dict[str, Any]:
    """Let MetaSchedule have as many seconds as ``peers_row``'s tuning has, time both."""
    row: dict[str, Any] = {**_head("metaschedule", model, threads, seconds), "rounds": rounds}
    with confined(threads), tempfile.TemporaryDirectory(prefix="fusetune-bench-") as scratch:
        path, made = build_for_peers(model, threads, seconds, out)
        records = Path(scratch) / "records"
        trials = metaschedule.tune(path, records, seconds, threads)
        other = Contestant("metaschedule", "bench.peers.engines:MetaScheduled", path, {"records": str(records)})
        ours = {name: artifact for name, artifact in made.artifacts.items() if name == "tuned"}
        report = bench(path, ours, ["onnxruntime"], threads=threads, rounds=rounds, others=[other])
    return row | {
        "tuning": made.tunings.get("tuned"), "trials": trials, "bench": report.to_json(),
        "ratios": {name: ratios_over(report, name) for name in ours},
        "error": "; ".join(made.problems) or None,
    }  # fmt: skip


@contextmanager
def confined(threads: int) -> Iterator[Device]:
    """Run on so many of our CPUs, and let whatever is started meanwhile: the device that is then found is smaller.

    An artifact is made for all cores of its device, so that one for a single thread is one for a single core.
    """
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(before)[-threads:])
        detect_cpu.cache_clear()
        yield detect_cpu()
    finally:
        os.sched_setaffinity(0, before)
        detect_cpu.cache_clear()


def ratios_over(report: BenchReport, ours: str) -> dict[str, dict[str, Any]]:
    """The latency of each float32 contestant over ours, by name."""
    found = {}
    for row in report.rows:
        over = ratio(report.result, ours, row.name) if row.precision == "fp32" and row.name != ours else None
        if over is not None:
            found[row.name] = asdict(over)
    return found


def _head(mode: str, model: str, threads: int, seconds: float) -> dict[str, Any]:
    today = datetime.now(UTC).date().isoformat()
    return {"mode": mode, "model": model, "threads": threads, "budget": seconds, "date": today}


def _folder(out: Path, mode: str, model: str, threads: int, seconds: float) -> Path:
    """Where a row's model and tunings stay."""
    return out / "built" / f"{mode}-{model}-{threads}-{seconds:g}"
