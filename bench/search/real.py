"""``python -m bench.search.real``: what the strategy joint gains on this machine's CPU, model by model.

Each model is tuned once with ``--strategy joint`` from an empty database. That run times the plan found and the greedy
plan it began with, both with their best kernels, in turns as whole models; and it notes what it predicted for the plan
found before building it. A row is written at a time to OUT/real.jsonl; rows that exist are not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.sections import write_section
from tuner.graph import zoo
from tuner.measure.device import detect_cpu, toolchain

MODELS = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet",
          "vgg19", "zfnet512")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives 1 if a model could not be tuned."""
    parser = argparse.ArgumentParser(prog="python -m bench.search.real", description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS), help="of the zoo, comma-separated")
    parser.add_argument("--seconds", type=float, default=180.0, help="budget of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench_out"))
    parser.add_argument("--render", action="store_true", help="measure nothing; write the rows into RESULTS.md")
    options = parser.parse_args(arguments)
    file = options.out / "real.jsonl"
    rows = {(r["model"], r["seed"]): r for r in _read(file)}
    models = options.models.split(",")
    if options.render:
        write_section("search:real", table(models, rows, options.seed))
        return 0
    for model in models:
        if (model, options.seed) in rows:
            continue
        row = measure(model, options.seconds, options.seed)
        options.out.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        rows[model, options.seed] = row
        print(json.dumps(row), flush=True)
    return int(any("error" in rows[model, options.seed] for model in models))


def measure(model: str, seconds: float, seed: int) -> dict[str, Any]:
    """One run; a failed one says why."""
    with tempfile.TemporaryDirectory(prefix="fusetune-bench-") as folder:
        out = Path(folder)
        path = zoo.write(model, out / f"{model}.onnx", seed)
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", "tune", str(path), "--strategy", "joint", "--seconds", str(seconds),
             "--seed", str(seed), "--db", f"sqlite:///{out}/fusetune.db", "--out", str(out / "out"), "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        row: dict[str, Any] = {"model": model, "seed": seed, "budget": seconds}
        if done.returncode:
            return row | {"error": done.stderr.strip()[-500:]}
        report = json.loads(done.stdout)
    device = detect_cpu()
    speedup, latency = report["speedup"], report["latency_ms"]
    return row | {
        "machine": f"{device.model}, {device.cores} cores, {toolchain()}",
        "over_greedy": speedup["over_greedy"], "interval": speedup["over_greedy_interval"],
        "rounds": speedup["over_greedy_rounds"], "over_onnxruntime": speedup["over_onnxruntime"],
        "prediction": report["prediction"], "trials": report["trials"]["measured"],
        "greedy_ms": latency["greedy"] and latency["greedy"]["median"], "best_ms": latency["tuned"]["median"],
        "deciding": report["seconds"]["deciding"], "total": report["seconds"]["total"], "load": report["machine"],
    }  # fmt: skip


def table(models: Sequence[str], rows: Mapping[tuple[str, int], Mapping[str, Any]], seed: int) -> str:
    """Markdown; models without a row say so."""
    lines = ["| model | joint over greedy | 95% interval, rounds | predicted ms | measured ms | error | trials |",
             "|:--|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    return "\n".join([*lines, *(_line(model, rows.get((model, seed))) for model in models)])


def _line(model: str, row: Mapping[str, Any] | None) -> str:
    if row is None or "error" in row:
        return f"| {model} | {'not measured' if row is None else 'failed'} | | | | | |"
    foreseen = row["prediction"]
    times = "| | | |"
    if foreseen:
        times = f"| {foreseen['predicted_ms']:.2f} | {foreseen['measured_ms']:.2f} | {100 * foreseen['error']:+.0f}% |"
    if row["over_greedy"] is None:
        return f"| {model} | the same plan | {times} {row['trials']} |"
    low, high = row["interval"]
    return f"| {model} | {row['over_greedy']:.2f}x | {low:.2f} to {high:.2f}, {row['rounds']} {times} {row['trials']} |"


def _read(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        for line in file.read_text().splitlines():
            yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
