"""What all runners share: one ``run`` at a time, and none after ``close``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tuner.errors import DeviceError, InternalError
from tuner.measure.runner import Runner
from tuner.types import Candidate, Purpose, Trial


class SerialRunner(Runner):
    """A Runner whose trials come from a generator. ``close`` is left to say how that is ended."""

    def __init__(self) -> None:
        self._closed = False
        self._running: Any = None  # the generator in use

    @abstractmethod
    def _trials(
        self, candidates: Iterator[Candidate], purpose: Purpose, best_seconds: Mapping[str, float]
    ) -> Iterator[Trial]:
        """A generator that does the work of ``run``, and ends early when it is closed or ``_closed`` is set."""

    def run(
        self,
        candidates: Iterable[Candidate],
        purpose: Purpose = Purpose.SEARCH,
        best_seconds: Mapping[str, float] | None = None,
    ) -> Iterator[Trial]:
        if self._closed:
            raise DeviceError("The runner is closed.", code="runner-closed")
        if self._running is not None and self._running.gi_frame is not None:
            raise InternalError("The runner is already measuring.", code="runner-busy")
        self._running = self._trials(iter(candidates), purpose, best_seconds if best_seconds is not None else {})
        trials: Iterator[Trial] = self._running
        return trials
