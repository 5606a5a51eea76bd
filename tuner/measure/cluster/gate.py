"""Building and measuring on the same cores: never so that one disturbs the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets threads build and measure on one machine. Measurements go first, one at a time; any thread may use it.

    While something is measured, only so many build as there are cores to spare: one is left to the rest of the
    machine, as the local runner leaves it.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._changed = threading.Condition()
        self._building = 0
        self._waiting = 0  # threads that want to measure
        self._measured: int | None = None  # cores that are measured on now

    @contextmanager
    def building(self) -> Iterator[None]:
        """Build inside: waits while a measurement wants or has the cores."""
        with self._changed:
            self._changed.wait_for(self._may_build)
            self._building += 1
        try:
            yield
        finally:
            with self._changed:
                self._building -= 1
                self._changed.notify_all()

    @contextmanager
    def measuring(self, cores: int) -> Iterator[None]:
        """Measure on so many cores inside: waits until no more is built than these leave room for."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._measured is None and self._building <= self._spare(cores))
                self._measured = cores
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._changed:
                self._measured = None
                self._changed.notify_all()

    def _may_build(self) -> bool:
        if self._measured is not None:
            return self._building < self._spare(self._measured)
        return not self._waiting and self._building < self._cores

    def _spare(self, cores: int) -> int:
        return max(0, self._cores - cores - 1)
