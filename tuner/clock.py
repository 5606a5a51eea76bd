"""How long a job has worked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of work: those of earlier runs of the same job count, time spent waiting does not.

    Read from any thread; ``stopped`` is for one thread at a time, and nests.
    """

    def __init__(self, already: float = 0.0) -> None:
        self._origin = time.monotonic() - already
        self._halted: float | None = None  # what ``seconds`` says while the clock stands still

    @property
    def seconds(self) -> float:
        halted = self._halted
        return time.monotonic() - self._origin if halted is None else halted

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The clock stands still inside."""
        if self._halted is not None:
            yield
            return
        began = time.monotonic()
        self._halted = began - self._origin
        try:
            yield
        finally:
            self._origin += time.monotonic() - began
            self._halted = None
