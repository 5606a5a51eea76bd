"""Where a running model's time goes: each kernel timed inside the whole, in a process of its own.

``python -m tuner.measure.profile FOLDER`` prints JSON {"kernels": [[symbol, median seconds], ...]} in running order.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tuner.build.artifact import load, read_manifest
from tuner.environment import child_environment

RUNS = 15
_LIMIT = 300.0  # seconds


def profile(folder: Path) -> list[tuple[str, float]] | None:
    """(kernel symbol, median seconds) of every kernel call of an artifact, in order; None when it cannot be run."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tuner.measure.profile", str(folder)],
            capture_output=True, text=True, timeout=_LIMIT, check=True, start_new_session=True,
            env=child_environment(),
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError):
        return None
    return [(symbol, seconds) for symbol, seconds in json.loads(done.stdout.splitlines()[-1])["kernels"]]


def _main(folder: Path) -> None:
    manifest = read_manifest(folder)
    symbols = {k["symbol"] for k in manifest["kernels"]}
    model = load(folder, check=False)
    random = np.random.default_rng(0)
    inputs = {i["name"]: _random(random, i["shape"], i["dtype"]) for i in manifest["inputs"]}
    call = model.prepare(inputs)
    for _ in range(3):
        call()
    runs: list[list[tuple[str, float]]] = []
    open_calls: list[tuple[str, int]] = []  # imported blocks are functions that call kernels: the outermost counts

    def watch(_: Any, symbol: str, before: bool, *__: Any) -> int:
        if before:
            open_calls.append((symbol, time.perf_counter_ns()))
        else:
            _, started = open_calls.pop()
            if symbol in symbols:
                runs[-1].append((symbol, (time.perf_counter_ns() - started) * 1e-9))
        return 0

    model.machine.set_instrument(watch)
    for _ in range(RUNS):
        runs.append([])
        call()
    kernels = [(calls[0][0], median(seconds for _, seconds in calls)) for calls in zip(*runs, strict=True)]
    print(json.dumps({"kernels": kernels}))


def _random(random: np.random.Generator, shape: list[int], dtype: str) -> np.ndarray:
    if np.issubdtype(np.dtype(dtype), np.floating):
        return random.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
