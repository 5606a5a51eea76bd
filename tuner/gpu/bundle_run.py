"""Runs a bundle of candidates where the device is: ``python BUNDLE/measure.py``. Needs NumPy and the TVM runtime alone.

This file travels in bundles as measure.py, with cubins.py beside it, so it imports nothing of fusetune. A parent that
never touches the device hands the candidates one by one to a child that does: a kernel that hangs, crashes or spoils
the device's context costs that child, and the next one goes on behind it.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
START_SECONDS = 120.0  # until a child has loaded TVM and opened the device
LIMIT_SECONDS = 20.0  # for one candidate
SAMPLES, SAMPLE_SECONDS, GROUP_SECONDS = 15, 0.3, 2e-3  # of a candidate; in all; of the calls timed together
MOST_IDLE = 3
ERROR_LIMIT = 1e-3  # on max|y - ref| / max|ref|; kernels in float16 or tf32 get ten times as much


class Unusable(Exception):
    """Nothing of the bundle can be measured here."""


def arguments(args: Sequence[Any], seed: int) -> list[np.ndarray]:
    """Random inputs for a kernel's arguments ``[[shape, dtype], ...]``, of which the last is the output."""
    random = np.random.default_rng(seed)
    found = []
    for shape, dtype in args[:-1]:
        kind = np.dtype(dtype).kind
        values = random.standard_normal(shape) if kind == "f" else random.integers(0, 2, shape)
        found.append(values.astype(dtype))
    return found


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """max|y - ref| / max|ref|; infinite for NaNs and other shapes."""
    if ours.shape != reference.shape:
        return float("inf")
    difference = np.abs(ours.astype(np.float64) - reference.astype(np.float64))
    scale = float(np.max(np.abs(reference.astype(np.float64)), initial=0.0))
    error = float(np.max(difference, initial=0.0))
    return (error / scale if scale else error) if np.isfinite(error) else float("inf")


def read_bundle(folder: Path) -> dict[str, Any]:
    """bundle.json of a folder. Raises Unusable when there is none of this format."""
    try:
        bundle = json.loads((folder / "bundle.json").read_text())
    except (OSError, ValueError) as error:
        raise Unusable(f"{folder} holds no bundle: {error}.") from error
    if not isinstance(bundle, dict) or bundle.get("format") != FORMAT:
        raise Unusable(f"{folder} holds a bundle of another format.")
    return bundle


def measure(
    folder: Path, limit: float = LIMIT_SECONDS, say: Callable[[str], None] = lambda _: None,
    until: float = float("inf"), keys: Collection[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure every candidate of a bundle, or those with these keys; returns what results.json holds.

    Begins none after ``until`` (monotonic seconds): those are left out of the results. Raises Unusable.
    """
    bundle = read_bundle(folder)
    waiting = [c["key"] for c in bundle["candidates"] if keys is None or c["key"] in keys]
    count = len(waiting)
    found: dict[str, dict[str, Any]] = {}
    device: dict[str, Any] = {}
    idle = 0  # children in a row that ended before they measured anything
    while waiting and time.monotonic() < until:
        before = len(waiting)
        for key, result in _child(folder, waiting, limit):
            if key is None:
                device = result
                continue
            found[key] = result
            waiting.remove(key)
            took = f"{1e6 * min(result['samples']):.1f} us" if result["samples"] else result["failure"]["message"]
            say(f"{len(found)} of {count}: {took}")
            if time.monotonic() >= until:
                break
        idle = idle + 1 if len(waiting) == before else 0
        if idle == MOST_IDLE:
            raise Unusable("The measuring process ends before it measures anything.")
    described = [
        c | found[c["key"]] | {"args": _args(bundle, c["task"])} for c in bundle["candidates"] if c["key"] in found
    ]
    return {
        "format": FORMAT,
        "bundle": hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest(),
        "model": bundle["model"],
        "arch": bundle["arch"],
        "device": device,
        "results": described,
    }


def _args(bundle: Mapping[str, Any], task: str) -> Any:
    return next(t["args"] for t in bundle["tasks"] if t["hash"] == task)


def _child(folder: Path, keys: Sequence[str], limit: float) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """(None, what the device is), then (key, result) one after another until all are done or the child is lost.

    With the child its last candidate is lost, which is a result as well.
    """
    command = [sys.executable, str(folder / "measure.py"), str(folder), "--child"]
    environment = {
        **os.environ,
        "TVM_USE_RUNTIME_LIB": "1",
        "TVM_NUM_THREADS": "1",
        "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1",
    }
    child = subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )
    assert child.stdin is not None and child.stdout is not None
    answers = Lines(child.stdout.fileno())
    try:
        first = answers.next(START_SECONDS)
        if first is None or "unusable" in first:
            raise Unusable(first["unusable"] if first else "The measuring process did not start.")
        yield None, first["device"]
        for key in keys:
            child.stdin.write(json.dumps(key).encode() + b"\n")
            answer = answers.next(limit)
            yield key, answer if answer is not None else _lost(child, answers.ended, limit)
            if answer is None:
                return
    except BrokenPipeError:
        return  # it died after its last answer: the next child goes on
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()


def _lost(child: subprocess.Popen[bytes], ended: bool, limit: float) -> dict[str, Any]:
    if not ended:
        return _failed("timeout", f"It did not end within {limit:g} s.")
    return _failed("crash", f"The process that ran it ended with {child.wait()}.")


def _failed(kind: str, message: str) -> dict[str, Any]:
    return {"samples": [], "failure": {"kind": kind, "message": message[:500], "stderr": ""}, "max_rel_error": None}


class Lines:
    """JSON lines from a pipe, each within a time limit."""

    def __init__(self, fd: int) -> None:
        self._fd, self._buffer, self.ended = fd, b"", False
        self._selector = selectors.DefaultSelector()
        self._selector.register(fd, selectors.EVENT_READ)

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None when time is up or, with ``ended``, when there are no more."""
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, end - time.monotonic())):
                return None
            data = os.read(self._fd, 1 << 16)
            if not data:
                self.ended = True
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


# what runs in the child ---------------------------------------------------------------------------------------------


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends, kernels that hang included (Linux's prctl)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG in linux/prctl.h


def _serve(folder: Path) -> None:
    """Answer keys from stdin with results on stdout."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints must not get between the answers

    def answer(value: Mapping[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        bundle = read_bundle(folder)
        device, described = _open_device(folder, bundle)
    except (OSError, RuntimeError, ImportError, Unusable) as error:
        answer({"unusable": str(error)})
        return
    answer({"device": described})
    candidates = {candidate["key"]: candidate for candidate in bundle["candidates"]}
    for line in sys.stdin:
        candidate = candidates[json.loads(line)]
        task = next(t for t in bundle["tasks"] if t["hash"] == candidate["task"])
        try:
            answer(_measure_one(folder, candidate, task, bundle["seed"], device))
        except Exception as error:  # whatever a kernel raises is its result
            answer(_failed("error", f"{type(error).__name__}: {error}"))


def _open_device(folder: Path, bundle: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    if bundle["arch"] == "cpu":
        import tvm

        return tvm.runtime.device("cpu", 0), {"kind": "cpu", "model": "cpu"}
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # where Python looks by itself, unless it is told not to
    from cubins import serve_cubins  # type: ignore[import-not-found]  # beside this file, in the bundle

    serve_cubins(folder / "cubins")
    import tvm

    device = tvm.runtime.device("cuda", 0)
    if not device.exist:
        raise Unusable("The CUDA runtime finds no GPU.")
    arch = f"sm_{str(device.compute_version).replace('.', '')}"
    if arch != bundle["arch"]:
        raise Unusable(f"The bundle was compiled for {bundle['arch']}; the GPU here, {device.device_name}, is {arch}.")
    return device, {
        "kind": "cuda", "model": str(device.device_name), "arch": arch, "sms": int(device.multi_processor_count),
        "clock_khz": int(device.max_clock_rate),
    }  # fmt: skip


def _measure_one(
    folder: Path, candidate: Mapping[str, Any], task: Mapping[str, Any], seed: int, device: Any
) -> dict[str, Any]:
    import tvm

    function = tvm.runtime.load_module(str(folder / candidate["library"]))["main"]
    shape, dtype = task["args"][-1]
    out = tvm.runtime.tensor(np.zeros(shape, dtype), device)
    args = [*(tvm.runtime.tensor(x, device) for x in arguments(task["args"], seed)), out]
    function(*args)
    device.sync()
    error = None
    if task["expected"]:
        expected = np.load(folder / task["expected"], allow_pickle=False)
        error = relative_error(out.numpy().reshape(-1)[:: task.get("step", 1)], expected.reshape(-1))
        if error > ERROR_LIMIT * (10 if dtype == "float16" or candidate.get("precision") == "tf32" else 1):
            return _failed("wrong", f"Its output differs from the reference by {error:.2g}.")
    return {"samples": _samples(lambda: function(*args), device), "failure": None, "max_rel_error": error}


def _samples(call: Callable[[], Any], device: Any) -> list[float]:
    """Seconds per call, calls made behind one another so that launching does not matter."""

    def timed(calls: int) -> float:
        device.sync()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        device.sync()
        return (time.perf_counter() - began) / calls

    calls = max(1, min(1000, int(GROUP_SECONDS / max(timed(3), 1e-7))))
    samples: list[float] = []
    end = time.monotonic() + SAMPLE_SECONDS
    while len(samples) < 3 or (len(samples) < SAMPLES and time.monotonic() < end):
        samples.append(timed(calls))
    return samples


def main() -> int:
    """The command ``python measure.py [BUNDLE] [--out RESULTS.json]``."""
    parser = argparse.ArgumentParser(description="Measure the candidates of a bundle on the device that is here.")
    parser.add_argument("bundle", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--out", type=Path, help="default: results.json in the bundle")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for one candidate")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _serve(options.bundle)
        return 0
    try:
        results = measure(options.bundle, options.limit, lambda text: print(text, flush=True))
    except Unusable as error:
        print(f"measure: {error}", file=sys.stderr)
        return 1
    out = options.out or options.bundle / "results.json"
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
