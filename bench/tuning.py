"""``fusetune tune`` as the benches call it: a process of its own, a time limit, its report or why there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import UserError

GRACE = 900.0  # seconds that a tuning may take beyond three times its budget before it counts as hanging
COMMAND = (sys.executable, "-m", "service.cli")  # how fusetune is called here


def tune(
    model: Path, out: Path, database: Path, options: Sequence[str], seconds: float, command: Sequence[str] = (),
    *, baselines: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Tune ``model`` into the folder ``out``; its report.

    Args:
        database: of records; made where there is none.
        options: further ones of the command.
        seconds: the budget, if the options have one, for the time limit.
        command: instead of COMMAND.
        baselines: whether unoptimised and unfused plans are timed as well.

    Raises:
        UserError: it failed or did not end (``no-tuning``).
    """
    limit = 3 * seconds + GRACE
    paths = ["--db", f"sqlite:///{database.absolute()}", "--out", str(out), "--json"]
    paths += [] if baselines else ["--no-baselines"]
    try:
        done = subprocess.run(
            [*(command or COMMAND), "tune", str(model), *options, *paths],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(f"The tuning did not end within {limit:g} s.", code="no-tuning") from error
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])[-300:] or f"exit code {done.returncode}"
        raise UserError(f"The tuning failed: {last}", code="no-tuning")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a report."""
    return {
        "seconds": report["seconds"]["total"], "measured": report["trials"]["measured"],
        "failed": report["trials"]["failed"], "max_rel_error": report["verification"]["max_rel_error"],
        "search": search_figures(report),
    }  # fmt: skip


def search_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of how a job searched: the plan found against greedy's, and its time as it was predicted."""
    device, speedup, latency = report["device"], report["speedup"], report["latency_ms"]
    return {
        "machine": f"{device['model']}, {device['cores']} cores, {report['toolchain']}",
        "over_greedy": speedup["over_greedy"], "interval": speedup["over_greedy_interval"],
        "rounds": speedup["over_greedy_rounds"], "over_onnxruntime": speedup["over_onnxruntime"],
        "prediction": report["prediction"], "side_by_side": report.get("side_by_side"),
        "trials": report["trials"]["measured"],
        "greedy_ms": latency["greedy"] and latency["greedy"]["median"],
        "best_ms": latency["tuned"] and latency["tuned"]["median"],
        "deciding": report["seconds"]["deciding"], "total": report["seconds"]["total"], "load": report["machine"],
    }  # fmt: skip
