"""What a contestant's process does: load its engine once, then take turns or give outputs.

Requests, all JSON: ``{"op": "load" | "run", "inputs": BUNDLE, "outputs": FILE}`` and ``{"op": "turn", ...}`` with the
fields of ``TurnOptions``. Arrays travel as files in the contest's scratch folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tuner.errors import CandidateError, FusetuneError
from tuner.measure.contestants import Engine, engine
from tuner.measure.timing import Wanted, kept, take

_SLOW = 1.0  # seconds per call from which one timed call makes a turn


def handler(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Import the engine's package. Called once; what it returns serves the requests."""
    if config["affinity"]:
        os.sched_setaffinity(0, config["affinity"])  # before any thread pool exists, so that all threads inherit it
    return _Server(engine(config["kind"], Path(config["path"]), config["options"], config["threads"])).handle


def write_arrays(arrays: Mapping[str, np.ndarray], file: Path) -> dict[str, Any]:
    """Save arrays for the other side; returns the bundle by which ``read_arrays`` finds them.

    The names stay out of the file: an ONNX tensor may be called "file", "../x" or anything else.
    """
    numbered: dict[str, Any] = {f"a{i}": array for i, array in enumerate(arrays.values())}
    np.savez(file, **numbered)
    return {"file": str(file), "names": list(arrays)}


def read_arrays(bundle: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name, as ``write_arrays`` got them."""
    with np.load(bundle["file"], allow_pickle=False) as stored:
        return {name: stored[f"a{i}"] for i, name in enumerate(bundle["names"])}


class _Server:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._call: Callable[[], Any] | None = None

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if request["op"] == "turn":
                return self._turn(request)
            return self._run(request)
        except CandidateError:
            raise
        except FusetuneError as error:  # such as an artifact for a better processor: its sentence says all
            raise CandidateError(error.message, code=error.code, hint=error.hint) from error

    def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        inputs = read_arrays(request["inputs"])
        start = time.perf_counter()
        if request["op"] == "load":
            self._engine.load(inputs)
        self._call = self._engine.prepare(inputs)
        result = self._call()
        seconds = time.perf_counter() - start
        outputs = write_arrays(self._engine.outputs(result), Path(request["outputs"]))
        return {"seconds": seconds, "outputs": outputs, "peak_memory": peak_memory()}

    def _turn(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._call is None:
            raise CandidateError("It was asked to take a turn before it was loaded.")
        call = self._call
        estimate = _warm(call, request["warm_calls"], request["warm_seconds"])
        calls = round(request["turn_seconds"] / estimate)
        calls = 1 if estimate >= _SLOW else min(max(calls, request["min_calls"]), request["max_calls"])
        wanted = Wanted(minimum=calls, maximum=calls, seconds=0.0, retakes=calls // 2)
        samples, _ = take(lambda _: call(), lambda _: None, 1, wanted)
        return {"samples": kept(samples), "peak_memory": peak_memory()}


def _warm(call: Callable[[], Any], calls: int, seconds: float) -> float:
    """Call until warm: caches and cores have just been somebody else's. Gives the fastest call's seconds."""
    fastest, spent, done = float("inf"), 0.0, 0
    while (done < calls or spent < seconds) and spent < _SLOW:
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        fastest, spent, done = min(fastest, took), spent + took, done + 1
    return max(fastest, 1e-9)


def peak_memory() -> int:
    """Bytes: the most this process held resident. getrusage would count what our parent held when it forked us."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
