"""A runner that watches its device's health: what was measured while that had drifted is measured again, or marked."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from tuner.measure.health import WINDOW, Condition, judge
from tuner.measure.runner import Runner
from tuner.measure.serial import SerialRunner
from tuner.types import Candidate, Device, Purpose, Trial

HELD = 8  # trials of one run that wait to be measured again
PERIOD = 5.0  # seconds between two notes of readings in the books


class Books(Protocol):
    """Where the readings of all who measure on a device come together."""

    def note(self, readings: list[float]) -> tuple[list[float], bool]:
        """Add readings (seconds, oldest first); gives the newest WINDOW of all, and whether the device drifts."""


class Memory:
    """Books of one process."""

    def __init__(self) -> None:
        self._readings: list[float] = []
        self._drifting = False

    def note(self, readings: list[float]) -> tuple[list[float], bool]:
        self._readings = [*self._readings, *readings][-WINDOW:]
        self._drifting = judge(self._readings, self._drifting).drifting
        return self._readings, self._drifting


class SteadyRunner(SerialRunner):
    """Another runner's trials; those of a device that has drifted are measured again or marked. Contract: see Runner.

    A trial beside which the calibration kernel took too long is measured once more when the others of its run are
    through; not so once the device is known to have drifted, for it would be no better then. What comes of it is the
    trial, marked with its ``drift`` where that is still too much.

    Args:
        inner: measures; closed with this one.
        books: keep the readings.
        tell: hears when the device begins to drift, and when it is well again.
    """

    def __init__(self, inner: Runner, books: Books, tell: Callable[[Condition], None] = lambda _: None) -> None:
        super().__init__()
        self._inner, self._books, self._tell = inner, books, tell
        self._readings, drifting = books.note([])
        self._condition = judge(self._readings, drifting)
        self._new: list[float] = []  # readings that the books do not have yet
        self._noted = time.monotonic()

    @property
    def disturbed(self) -> int:  # type: ignore[override]
        return self._inner.disturbed

    @property
    def condition(self) -> Condition:
        """The device's, as far as is known here."""
        return self._condition

    def devices(self) -> tuple[Device, ...]:
        return self._inner.devices()

    def close(self) -> None:
        self._closed = True
        self._inner.close()

    def _trials(
        self, candidates: Iterator[Candidate], purpose: Purpose, best_seconds: Mapping[str, float]
    ) -> Iterator[Trial]:
        held: list[Candidate] = []
        try:
            with closing(self._pass(candidates, purpose, best_seconds)) as trials:
                for trial in trials:
                    if self._drift(trial) is not None and not self._condition.drifting and len(held) < HELD:
                        held.append(trial.candidate)
                    else:
                        yield self._marked(trial)
            if held:
                with closing(self._pass(iter(held), purpose, best_seconds)) as trials:
                    for trial in trials:
                        yield self._marked(trial)
        finally:
            self._note()

    def _pass(
        self, candidates: Iterator[Candidate], purpose: Purpose, best_seconds: Mapping[str, float]
    ) -> Generator[Trial, None, None]:
        """The inner runner's trials, whose readings are taken down; none once it is closed."""
        if self._closed:
            return
        trials = self._inner.run(candidates, purpose, best_seconds)
        try:
            for trial in trials:
                if trial.calibration is not None:
                    self._take(trial.calibration)
                yield trial
        finally:
            trials.close()  # type: ignore[attr-defined]

    def _drift(self, trial: Trial) -> float | None:
        return None if trial.failure is not None else self._condition.drift(trial.calibration)

    def _marked(self, trial: Trial) -> Trial:
        drift = self._drift(trial)
        return trial if drift is None else replace(trial, drift=drift)

    def _take(self, reading: float) -> None:
        self._new.append(reading)
        self._readings = [*self._readings, reading][-WINDOW:]
        before, self._condition = self._condition, judge(self._readings, self._condition.drifting)
        changed = before.drifting != self._condition.drifting
        if changed:
            self._tell(self._condition)
        if changed or time.monotonic() - self._noted > PERIOD:
            self._note()

    def _note(self) -> None:
        """Put new readings into the books, and learn what others put there."""
        if self._new:
            self._readings, drifting = self._books.note(self._new)
            self._new = []
            self._condition = judge(self._readings, drifting)
        self._noted = time.monotonic()
