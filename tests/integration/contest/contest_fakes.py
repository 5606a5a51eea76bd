"""Engines that behave as the options say; named in tests as "contest_fakes:Class"."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tuner.measure.contestants import Engine


class Doubler(Engine):
    """y = 2x after ``sleep`` seconds; ``at`` the given call (0 = in load) it does what ``what`` says."""

    calls = 0

    def load(self, inputs: Mapping[str, np.ndarray]) -> None:
        self.misbehave()

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        x = inputs["x"]

        def call() -> Any:
            self.calls += 1
            self.misbehave()
            time.sleep(self.options.get("sleep", 0.001))
            return 2 * x

        return call

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        return {"file": result, "../y/0": np.array(self.threads), "cpus": np.array(len(os.sched_getaffinity(0)))}

    def misbehave(self) -> None:
        if self.calls != self.options.get("at"):
            return
        what = self.options["what"]
        print(f"about to {what}", file=sys.stderr, flush=True)
        if what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                pass
        elif what == "raise":
            raise ValueError("no such operator")


class Spinner(Doubler):
    """Its thread pool never rests."""

    def load(self, inputs: Mapping[str, np.ndarray]) -> None:
        def spin() -> None:
            while True:
                sum(range(1000))

        threading.Thread(target=spin, daemon=True).start()


class Unavailable(Engine):
    """Needs a package that nobody has."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        from tuner.measure.contestants import _package

        _package("fusetune_no_such_engine")

    load = prepare = outputs = None  # type: ignore[assignment]
