"""``python -m bench.gpu MODEL``: one model on the GPU that is here, ours and everybody else's, in under nine minutes.

A row is appended to ROWS; a setting that has one of this GPU is not measured again. ``--prepare`` makes the kit of our
kernels on a machine without a GPU, ``--carry`` the folder with TVM's runtime that a bare machine needs, ``--render``
writes the section of RESULTS.md. docs/gpu.md says which is run where.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gpu.contest import CONTENDERS, OURS, ROUNDS, TURN, contest
from bench.gpu.kit import TUNED, Setting, prepare, read_kit, size_of, write_model
from bench.gpu.tables import SECTION, section
from bench.lines import append, read
from bench.sections import RESULTS, write_section
from tuner.errors import FusetuneError
from tuner.gpu.bundle_run import Unusable, measure
from tuner.gpu.detect import Gpu, detect

SECONDS = 500.0  # of one call
BUNDLE = 0.4  # share of it in which candidates are measured
PRECISIONS = ("fp16", "tf32", "fp32")
BATCHES = (1, 8)
RENDERED = ("fp16",)  # precisions whose missing rows RESULTS.md names


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where nothing could be measured."""
    options = _options(arguments)
    try:
        return _run(options)
    except (FusetuneError, Unusable) as error:
        hint = f" {error.hint}" if isinstance(error, FusetuneError) and error.hint else ""
        print(f"bench.gpu: {error}{hint}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.render:
        render(options.rows, RESULTS)
        return 0
    if options.carry:
        from bench.gpu.carry import carry

        for line in carry(options.carry):
            print(line)
        return 0
    setting = Setting(options.model, options.batch, options.precision)
    kit = options.kit or Path("bench_out", "kits", setting.name)
    if options.prepare:
        made = prepare(setting, options.prepare, kit, options.seconds, options.results)
        weights = "its weights in it" if made.weights else "without its weights"
        print(f"{kit}: for {made.device} ({made.arch}), {size_of(kit) / 2**20:.1f} MiB, {weights}")
        return 0
    return measured(setting, kit, options)


def measured(setting: Setting, kit: Path, options: argparse.Namespace) -> int:
    """Measure a setting unless its row is there. Raises DeviceError where there is no GPU that can be used."""
    began = time.monotonic()
    gpu = detect()
    for row in read(options.rows):
        if key_of(row) == (gpu.model, setting.model, setting.batch, setting.precision) and not options.again:
            print(f"{setting.name} has a row of {gpu.model} in {options.rows} (--again measures it again)")
            return 0
    until = began + options.seconds
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        row = _row(setting, kit, gpu, options, began, until, Path(scratch))
    append(options.rows, row)
    for each in row["contenders"]:
        took = each["failure"] or f"{each['median_ms']:.3f} ms"
        print(f"{each['name']}: {took}")
    return int(all(each["median_ms"] is None for each in row["contenders"]))


def _row(
    setting: Setting, kit: Path, gpu: Gpu, options: argparse.Namespace, began: float, until: float, scratch: Path
) -> dict[str, Any]:  # fmt: skip
    known: Any = None
    missing, results, counted = "", None, {"candidates": 0, "failed": 0}
    try:
        known = read_kit(kit, setting)
        results, counted = _candidates(kit, options, began + BUNDLE * options.seconds)
    except (FusetuneError, Unusable) as error:
        missing = str(error)
        print(f"ours: {missing}")
    config = {"kit": None if known is None else str(kit.resolve()), "results": results,
              "precision": setting.precision, "weights": bool(known and known.weights),
              **_model(setting, scratch / f"{setting.model}.onnx")}  # fmt: skip
    entries = contest(config, options.contenders, scratch, until, print, options.rounds, options.turn)
    for each in entries:
        if each["failure"] and missing and each["name"] in OURS:
            each["failure"] = missing
    return {
        "model": setting.model, "batch": setting.batch, "precision": setting.precision,
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": {"model": gpu.model, "arch": gpu.arch, "sms": gpu.sms, "driver": gpu.driver, "memory": gpu.memory},
        "kit": None if known is None else vars(known), "bundle": counted, "seconds": time.monotonic() - began,
        "contenders": entries,
    }  # fmt: skip


def _model(setting: Setting, path: Path) -> dict[str, Any]:
    """The model's file for those who read it; on a bare machine, why there is none."""
    try:
        return {"model": str(write_model(setting, path)), "no_model": None}
    except ModuleNotFoundError as error:
        return {"model": None, "no_model": f"the model cannot be written: {error.name} is not installed here"}


def _candidates(kit: Path, options: argparse.Namespace, until: float) -> tuple[str | None, dict[str, int]]:
    """Measure the kit's candidates; results.json is left beside the rows too, for the next round of building."""
    found = measure(kit / TUNED / "bundle", say=lambda text: print(text, flush=True), until=until)
    path = options.rows.with_name(f"results-{kit.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found) + "\n")
    failed = sum(each["failure"] is not None for each in found["results"])
    return str(path.resolve()), {"candidates": len(found["results"]), "failed": failed}


def key_of(row: dict[str, Any]) -> tuple[str, str, int, str]:
    return row["gpu"]["model"], row["model"], row["batch"], row["precision"]


def render(rows: Path, path: Path) -> None:
    """Write the section: of each setting and GPU the last row, and what has none."""
    from bench.peers.models import MODELS

    last = {key_of(row): row for row in read(rows)}
    settings = [Setting(m, b, p) for p in RENDERED for b in BATCHES for m in MODELS]
    more = {Setting(row["model"], row["batch"], row["precision"]) for row in last.values()} - set(settings)
    order = [*settings, *sorted(more, key=lambda s: (s.precision, s.batch, s.model))]
    write_section(SECTION, section(order, list(last.values())), path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", metavar="MODEL", help="one of bench.peers.models")
    parser.add_argument("--batch", type=int, default=1, choices=BATCHES)
    parser.add_argument("--precision", default="fp16", choices=PRECISIONS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of this call, or of building with --prepare")
    parser.add_argument("--kit", type=Path, help="default: bench_out/kits/MODEL-bBATCH-PRECISION")
    parser.add_argument("--rows", type=Path, default=Path("bench_out/gpu.jsonl"))
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each contender")
    parser.add_argument("--turn", type=float, default=TURN, help="seconds of a turn")
    parser.add_argument("--again", action="store_true", help="measure although there is a row")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="with --prepare: of earlier rounds")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--prepare", metavar="DEVICE", help="make the kit for a GPU such as h100; needs nvcc, no GPU")
    mode.add_argument("--carry", type=Path, metavar="FOLDER", help="put TVM's runtime for a bare machine there")
    mode.add_argument("--render", action="store_true", help="measure nothing; write the rows into RESULTS.md")
    options = parser.parse_args(arguments)
    if options.model is None and not (options.render or options.carry):
        parser.error("which MODEL?")
    if options.model is not None and options.model not in (known := _models() or (options.model,)):
        parser.error(f"there is no model {options.model!r}; known are {', '.join(known)}")
    if unknown := [name for name in options.contenders if name not in CONTENDERS]:
        parser.error(f"there is no contender {unknown[0]!r}; known are {', '.join(CONTENDERS)}")
    return options


def _models() -> tuple[str, ...]:
    """Their names; none where ONNX is not installed, as on a bare machine."""
    try:
        from bench.peers.models import MODELS
    except ModuleNotFoundError:
        return ()
    return MODELS


if __name__ == "__main__":
    sys.exit(main())
