"""A recorded space as a search sees it: it measures, and the oracle keeps count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from tuner.measure.replay import Recording, ReplayRunner
from tuner.types import Candidate, Trial

LEVELS = (0.9, 0.95, 0.99)  # of the best speed of the space


class Exhausted(Exception):
    """The search is over: the highest level is reached, or no more measurements are allowed."""


class Oracle:
    """Answers by replay; counts what is new, and raises Exhausted when there is nothing more to learn."""

    def __init__(self, recording: Recording, most: int | None = None) -> None:
        self.recording = recording
        self._most = min(most or len(recording.points), len(recording.points))
        self.curve: list[float] = []  # share of the best speed after each measurement
        self._runner = ReplayRunner([recording])
        self._known: dict[str, Trial] = {}

    def measure(self, candidates: Iterable[Candidate]) -> list[Trial]:
        """Trials of these candidates; one measured before costs nothing."""
        trials = []
        for candidate in candidates:
            if candidate.key not in self._known:
                (self._known[candidate.key],) = self._runner.run([candidate])
                share = self.recording.best / (self._known[candidate.key].seconds or float("inf"))
                self.curve.append(max([share, *self.curve[-1:]]))
                if self.curve[-1] >= LEVELS[-1] or len(self.curve) >= self._most:
                    raise Exhausted
            trials.append(self._known[candidate.key])
        return trials

    def seconds(self, knobs: Mapping[str, int]) -> float | None:
        """The time of one point; None if it fails."""
        (trial,) = self.measure([replace(self.recording.candidate, knobs=knobs)])
        return trial.seconds

    def reached(self, level: float) -> int | None:
        """Measurements until a point at least so fast was known; None = never."""
        return next((n for n, share in enumerate(self.curve, 1) if share >= level), None)
