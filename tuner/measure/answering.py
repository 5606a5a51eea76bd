"""What runners share that measure nothing and answer at once: one candidate taken, one trial given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tuner.errors import DeviceError, InternalError
from tuner.measure.runner import Runner
from tuner.types import Candidate, Purpose, Trial


class AnsweringRunner(Runner):
    """A Runner that knows its answers, and so takes nothing ahead. See Runner for the contract.

    ``best_seconds`` changes nothing: no answer takes time that stopping early could save.
    """

    def __init__(self) -> None:
        self._closed = False
        self._running: Any = None  # the generator in use

    @abstractmethod
    def _answer(self, candidate: Candidate, purpose: Purpose) -> Trial:
        """The trial of one candidate, with this purpose; failures are values in it."""

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
        self._running = self._trials(iter(candidates), purpose)
        trials: Iterator[Trial] = self._running
        return trials

    def close(self) -> None:
        self._closed = True

    def _trials(self, candidates: Iterator[Candidate], purpose: Purpose) -> Iterator[Trial]:
        while not self._closed:
            candidate = next(candidates, None)
            if candidate is None or self._closed:
                return
            yield self._answer(candidate, purpose)
