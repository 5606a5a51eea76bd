"""The contenders of one model, taking turns on the GPU: each in a process of its own, which may hang or die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tuner.gpu.bundle_run import Lines, relative_error

OURS = ("tuned", "sequential", "tvm")
PEERS = ("torch", "torch-channels-last", "torch-compile", "tensorrt")
CONTENDERS = (*OURS, *PEERS)
TURN = 0.3  # s
ROUNDS = 9
_GRACE = 20.0  # s beyond a turn after which a contender hangs
_ENDING = 15.0  # s kept of the time for the turns' end and the row


class Contender:
    """One process. ``failed`` says why it is out, ``note`` how it runs."""

    def __init__(self, name: str, config: Mapping[str, Any], log: Path) -> None:
        self.name, self.failed = name, ""
        self.note: dict[str, Any] = {}
        self.rounds: list[list[float]] = []
        runtime = {"TVM_USE_RUNTIME_LIB": "1", "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"} if name in OURS else {}
        self._log = log.open("wb")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu.child", json.dumps({**config, "contender": name})], bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
            env={**os.environ, **runtime},
        )  # fmt: skip
        assert self._child.stdout is not None
        self._answers = Lines(self._child.stdout.fileno())

    def start(self, seconds: float) -> None:
        """Wait until it is ready, for so long."""
        answer = self._answer(seconds, "to be ready")
        if answer is not None:
            self.note = answer["ready"]

    def turn(self, seconds: float) -> None:
        """Have it run for so long."""
        answer = self._ask({"time": seconds}, seconds + _GRACE)
        if answer is not None:
            self.rounds.append(answer["samples"])

    def outputs(self, path: Path) -> dict[str, np.ndarray]:
        """What it computes; nothing if it fails."""
        if self._ask({"outputs": str(path)}, _GRACE) is None:
            return {}
        with np.load(path) as found:
            return {name: found[name] for name in found}

    def close(self) -> None:
        """End the process."""
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def to_json(self) -> dict[str, Any]:
        """Its entry in a row: milliseconds over rounds' medians, or why there are none."""
        if not self.rounds:
            return {"name": self.name, "median_ms": None, "failure": self.failed or "It had no turn in time.",
                    "note": self.note}  # fmt: skip
        medians = [1e3 * median(samples) for samples in self.rounds]
        least = 1e3 * min(min(samples) for samples in self.rounds)
        return {
            "name": self.name, "median_ms": median(medians), "min_ms": least, "rounds_ms": medians,
            "samples": sum(map(len, self.rounds)), "failure": None, "note": self.note,
        }  # fmt: skip

    def _ask(self, what: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
        if self.failed:
            return None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(what).encode() + b"\n")
        except BrokenPipeError:
            self.failed = "Its process is gone."
            return None
        return self._answer(seconds, "to answer")

    def _answer(self, seconds: float, what: str) -> dict[str, Any] | None:
        """The next answer; what goes wrong puts it out, and whatever it did to its context with it."""
        answer = self._answers.next(max(0.0, seconds))
        if answer is None:
            ended = f"Its process ended with {self._child.wait()}." if self._answers.ended else ""
            self.failed = ended or f"It took more than {seconds:.0f} s {what}."
            self.close()
        elif "failed" in answer:
            self.failed = answer["failed"]
            self.close()
            return None
        return answer


def contest(
    config: Mapping[str, Any], names: Sequence[str], folder: Path, until: float, say: Callable[[str], None],
    rounds: int = ROUNDS, turn: float = TURN,
) -> list[dict[str, Any]]:  # fmt: skip
    """Entries of a row, one for each contender, in order. Ends by ``until`` (monotonic seconds), with what there is.

    ``config`` is what bench.gpu.child is told; ``folder`` takes logs and outputs.
    """
    turns = rounds * turn * len(names) * 2 + _ENDING  # half of it waiting for answers
    entered = [Contender(name, config, folder / f"{name}.log") for name in names]
    try:
        for each in entered:  # side by side: torch.compile takes minutes, and uses the processor for most of them
            each.start(until - turns - time.monotonic())
            say(f"{each.name}: {each.failed or 'ready'}")
        for _ in range(rounds):
            for each in entered:
                if not each.failed and time.monotonic() < until - _ENDING:
                    each.turn(turn)
        found = {each.name: each.outputs(folder / f"{each.name}.npz") for each in entered if not each.failed}
    finally:
        for each in entered:
            each.close()
    return [each.to_json() | {"error": _error(each.name, found, config["weights"])} for each in entered]


def _error(name: str, found: Mapping[str, Mapping[str, np.ndarray]], weights: bool) -> float | None:
    """max|y - ref| / max|ref| of a contender's outputs against the first that can be compared with it.

    Ours are compared with PyTorch where they have the model's weights, else with TVM's untuned, which has the same.
    """
    references = ("torch", "torch-channels-last") if weights or name in PEERS else ("tvm",)
    reference = next((r for r in references if found.get(r)), None)
    if not found.get(name) or reference is None or reference == name:
        return None
    ours, theirs = list(found[name].values()), list(found[reference].values())
    if len(ours) != len(theirs):
        return None
    return max(relative_error(a.reshape(-1), b.reshape(-1)) for a, b in zip(ours, theirs, strict=True))
