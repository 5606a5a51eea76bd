"""Every zoo model, tuned on this machine and timed against ONNX Runtime and OpenVINO: ``python -m bench.first_light``.

One JSON line per model goes to OUT/rows.jsonl as soon as it is known, failures included; models that have a line are
skipped, so an interrupted run goes on where it was. ``--render`` puts the lines into bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bench.lines import append, read
from bench.peers import BenchReport, bench
from bench.results import disturbed, render
from bench.sections import RESULTS
from bench.tuning import COMMAND, GRACE
from tuner.errors import FusetuneError, UserError
from tuner.measure.contest import Ratio, ratio

_PEERS = ("onnxruntime", "openvino")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit code: 0 if every model asked for has a line without an error."""
    from tuner.graph import zoo

    parser = argparse.ArgumentParser(prog="python -m bench.first_light", description=__doc__)
    parser.add_argument("--models", default=",".join(zoo.names()), help="comma-separated names; default: the whole zoo")
    parser.add_argument("--seconds", type=float, default=300.0, help="tuning budget per model")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant")
    parser.add_argument("--out", type=Path, default=Path("bench_out"))
    parser.add_argument("--retry", action="store_true", help="measure models again that failed or were disturbed")
    parser.add_argument("--keep", action="store_true", help="keep models and artifacts (up to 2 GB each)")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the lines into bench/RESULTS.md")
    options = parser.parse_args(arguments)
    if options.render:
        render(read_rows(options.out / "rows.jsonl"), RESULTS, zoo.names())
        return 0
    command = f"python -m bench.first_light --seconds {options.seconds:g} --rounds {options.rounds}"
    rows = first_light(
        options.models.split(","),
        options.out,
        lambda name, folder: _measure(name, folder, zoo.write, options.seconds, options.rounds) | {"command": command},
        retry=options.retry,
        keep=options.keep,
    )
    return int(any(row["error"] for row in rows))


def first_light(
    models: Iterable[str],
    out: Path,
    measure: Callable[[str, Path], Mapping[str, Any]],
    *,
    retry: bool = False,
    keep: bool = False,
) -> list[dict[str, Any]]:
    """Measure the models that have no line yet; returns the lines of all models asked for.

    ``measure(name, folder)`` gives a row's entries; an exception of its becomes the row's ``error``. Files larger than
    reports and logs are removed from the model's folder afterwards, unless ``keep``.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = out / "rows.jsonl"
    found = []
    for name in models:
        known = read_rows(lines).get(name)
        if known is None or (retry and (known["error"] or disturbed(known))):
            print(f"{name} ...", file=sys.stderr, flush=True)
            folder = out / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            started = time.monotonic()
            known = {"model": name, "error": None}
            try:
                known |= measure(name, folder)
            except (FusetuneError, OSError, subprocess.SubprocessError, ValueError) as error:
                known["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            known["wall_seconds"] = round(time.monotonic() - started, 1)
            append(lines, known)
            if not keep:
                _sweep(folder)
        print(f"{name}: {known['error'] or _gist(known)}", file=sys.stderr, flush=True)
        found.append(known)
    return found


def read_rows(lines: Path) -> dict[str, dict[str, Any]]:
    """The last line of each model."""
    return {row["model"]: row for row in read(lines)}


def _measure(
    name: str, folder: Path, write: Callable[[str, Path], Path], seconds: float, rounds: int
) -> dict[str, Any]:
    """Tune with no trials, tune, tune again from the records, then time the first two against the peers."""
    model = write(name, folder / f"{name}.onnx")
    limited = ["--seconds", f"{seconds:g}"]
    problems: list[str] = []
    reports = {
        # A database of its own: defaults must not profit from records.
        "default": _tune(model, folder, "default", ["--trials", "0"], "default.db", GRACE, problems),
        "tuned": _tune(model, folder, "tuned", limited, "tuned.db", 3 * seconds + GRACE, problems),
    }
    reports["again"] = (
        _tune(model, folder, "again", limited, "tuned.db", 3 * seconds + GRACE, problems) if reports["tuned"] else None
    )
    artifacts = {kind: folder / kind for kind in ("tuned", "default") if reports[kind] is not None}
    report = bench(model, artifacts, _PEERS, rounds=rounds)
    problems += [f"{row.name}: {row.failure}" for row in report.rows if row.failure]
    return {
        "budget_seconds": seconds,
        "bench": report.to_json(),
        "default_ratio": _default_ratio(report, artifacts),
        "tuning": _summary(reports["tuned"]),
        "again": _summary(reports["again"]),
        "error": "; ".join(problems) or None,
    }


def _tune(
    model: Path, folder: Path, kind: str, budget: Sequence[str], database: str, limit: float, problems: list[str]
) -> dict[str, Any] | None:
    """Run ``fusetune tune`` into ``folder / kind``; its report, or None and what went wrong added to ``problems``."""
    out = folder / kind
    paths = ["--no-baselines", "--out", str(out), "--json", "--db", f"sqlite:///{(folder / database).absolute()}"]
    command = [*COMMAND, "tune", str(model), *budget, *paths]
    log = folder / f"{kind}.log"
    with log.open("wb") as file:
        header = file.write(f"{shlex.join(command)}\n".encode())
        file.flush()
        try:
            code = _call(command, file, limit)
        except subprocess.TimeoutExpired:
            problems.append(f"{kind}: tuning did not end within {limit:g} s")
            return None
    written = out / "report.json"
    if code != 0 or not written.exists():
        last = " ".join(log.read_bytes()[header:].decode(errors="replace").splitlines()[-1:])[-300:]
        problems.append(f"{kind}: tuning ended with exit code {code}: {last}")
        return None
    report: dict[str, Any] = json.loads(written.read_text())
    shutil.copy(written, folder / f"{kind}.report.json")
    return report


def _call(command: Sequence[str], log: IO[bytes], limit: float) -> int:
    """Exit code of a command that writes to ``log``. On a time-out it is killed; its children notice and follow."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=limit, check=False
    ).returncode


def _summary(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the table says about one tuning."""
    if report is None:
        return None
    trials, seconds = report["trials"], report["seconds"]["total"]
    return {
        "seconds": seconds,
        "measured": trials["measured"],
        "failed": trials["failed"],
        "reused": trials["reused"],
        "trials_per_second": trials["measured"] / seconds if seconds else None,
        "max_rel_error": report["verification"]["max_rel_error"],
        "passed": report["verification"]["passed"],
    }


def _default_ratio(report: BenchReport, artifacts: Mapping[str, Path]) -> dict[str, Any] | None:
    found: Ratio | None = None
    if "default" in artifacts:
        try:
            found = ratio(report.result, "default", "onnxruntime")
        except UserError:
            return None
    return None if found is None else asdict(found)


def _gist(row: Mapping[str, Any]) -> str:
    rows = (row.get("bench") or {}).get("rows", ())
    return ", ".join(f"{r['name']} {r['median_ms']:.2f} ms" for r in rows if r["median_ms"] is not None)


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix not in (".json", ".log"):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
