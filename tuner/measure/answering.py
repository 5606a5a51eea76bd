"""What runners share that measure nothing and answer at once: one candidate taken, one trial given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping

from tuner.measure.serial import SerialRunner
from tuner.types import Candidate, Purpose, Trial


class AnsweringRunner(SerialRunner):
    """A Runner that knows its answers, and so takes nothing ahead. See Runner for the contract.

    ``best_seconds`` changes nothing: no answer takes time that stopping early could save.
    """

    @abstractmethod
    def _answer(self, candidate: Candidate, purpose: Purpose) -> Trial:
        """The trial of one candidate, with this purpose; failures are values in it."""

    def close(self) -> None:
        self._closed = True

    def _trials(
        self, candidates: Iterator[Candidate], purpose: Purpose, best_seconds: Mapping[str, float]
    ) -> Iterator[Trial]:
        while not self._closed:
            candidate = next(candidates, None)
            if candidate is None or self._closed:
                return
            yield self._answer(candidate, purpose)
