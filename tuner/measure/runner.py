"""The Runner seam: where candidates are built and measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from tuner.types import Candidate, Device, Purpose, Trial


class Runner(ABC):
    """Builds and measures candidates on one or more devices.

    Contract:

    * Every candidate taken from the iterable becomes exactly one Trial, in order of completion; none is lost and none
      is measured twice, whatever its neighbours do. A candidate's failure is a value in its Trial; an exception means
      that the service itself failed (DeviceError, InternalError), or that the iterable raised.
    * ``run`` is lazy: candidates are taken from the iterable only while the consumer asks for trials, and only as many
      as a chunk; closing the returned iterator drops what was built ahead.
    * One ``run`` at a time; a second one while the first is unfinished raises InternalError(code="runner-busy").
    * ``close`` may be called from any thread, kills whatever runs within a second, leaves nothing behind, and may be
      called again. An iterator in use then ends without further trials. ``run`` after ``close`` raises
      DeviceError(code="runner-closed").
    """

    disturbed: int = 0  # samples so far that foreign load disturbed

    @abstractmethod
    def run(
        self,
        candidates: Iterable[Candidate],
        purpose: Purpose = Purpose.SEARCH,
        best_seconds: Mapping[str, float] | None = None,
    ) -> Iterator[Trial]:
        """Trials of these candidates in completion order.

        Args:
            candidates: what to measure; may be an endless generator.
            purpose: SEARCH and CORES may stop hopeless candidates early; FINAL takes more samples, in a process begun
                for this run.
            best_seconds: ``Candidate.record_key`` -> best seconds per call known so far. Read afresh for every
                candidate, so the caller may go on updating it; the runner adds what it sees during this run itself.
        """

    @abstractmethod
    def devices(self) -> tuple[Device, ...]:
        """The devices this runner measures on."""

    @abstractmethod
    def close(self) -> None:
        """Kill what runs and give back everything. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
