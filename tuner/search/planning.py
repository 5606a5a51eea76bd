"""Drives a Strategy over a plan space: asks it what to measure, has that measured, tells it, until it wants no more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tuner.clock import Clock
from tuner.errors import InternalError
from tuner.measure.runner import Runner
from tuner.plan.describe import describe
from tuner.plan.space import Evaluation
from tuner.search.strategies.base import State, Strategy, is_known
from tuner.store import TrialStore
from tuner.types import Candidate, Trial

BATCH = 16  # evaluations asked of a strategy at once


@dataclass
class Planning:
    """The plan search of one job on a device whose kernels have no knobs. Its state comes from stored trials."""

    state: State
    strategy: Strategy
    store: TrialStore
    fresh: bool = False  # what other jobs measured does not count
    clock: Clock = field(default_factory=Clock)
    trials: list[Trial] = field(default_factory=list)  # known ones first, then this job's
    measured: int = 0
    failed: int = 0
    reused: int = 0
    measure_seconds: float = 0.0
    deciding_seconds: float = 0.0
    message: str = "starting"
    latency: float | None = None  # seconds of the best plan of measured blocks, found after each batch

    def __post_init__(self) -> None:
        self._stopped = False
        self._mine: dict[str, Trial] = {}
        self._asked: dict[str, Evaluation] = {}  # Candidate.key -> what it answers
        self._predicted: dict[str, float] = {}

    def stop(self) -> None:
        """End after the trial in flight."""
        self._stopped = True

    def recall(self) -> None:
        """Take in what this job measured before it was interrupted; unless ``fresh``, also what others did.

        Which evaluations others have measured is only seen as they are proposed: see ``_answered``.
        """
        mine = list(self.store.mine())
        self.trials += mine
        self.measured, self.failed = len(mine), sum(t.failure is not None for t in mine)
        self.measure_seconds = sum(t.measure_seconds for t in mine)
        self._mine = {t.candidate.key: t for t in mine}

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        """Measure; yields each trial after it was stored. ``deadline`` is in the clock's seconds."""
        while self._goes_on(trials, deadline):
            began = time.monotonic()
            room = BATCH if trials is None else min(BATCH, trials - self.measured)
            wanted = self.strategy.propose(self.state, room)
            candidates = self._candidates(wanted)
            unknown = self._answered(candidates)
            self.latency = self._latency()
            self.deciding_seconds += time.monotonic() - began
            if not wanted:
                return
            yield from self._measure(runner, unknown, trials, deadline)
        self.latency = self._latency()

    def _goes_on(self, trials: int | None, deadline: float | None) -> bool:
        in_time = deadline is None or self.clock.seconds < deadline
        return not self._stopped and in_time and (trials is None or self.measured < trials)

    def _candidates(self, wanted: Sequence[Evaluation]) -> list[Candidate]:
        found = []
        for evaluation in wanted:
            candidate = self.state.space.candidate(evaluation, {})
            self._asked[candidate.key] = evaluation
            if self.state.predictor is not None:
                self._predicted[candidate.key] = float(np.exp(self.state.predicted[0][evaluation]))
            found.append(candidate)
        return found

    def _answered(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Tell what is stored of these already; the rest has to be measured."""
        known = {} if self.fresh else {t.candidate.key: t for t in self.store.known([c.record_key for c in candidates])}
        unknown = []
        for candidate in candidates:
            trial = self._mine.get(candidate.key)
            if trial is None and (trial := known.get(candidate.key)) is not None:
                self.trials.append(trial)
                self.reused += 1
            if trial is None:
                unknown.append(candidate)
            else:
                self.state.tell([(self._asked[candidate.key], trial.seconds)])
        return unknown

    def _measure(
        self, runner: Runner, candidates: Sequence[Candidate], trials: int | None, deadline: float | None
    ) -> Iterator[Trial]:
        results = runner.run(candidates)
        while self._goes_on(trials, deadline):
            began = time.monotonic()
            trial = next(results, None)
            if trial is None:
                return
            self.measure_seconds += time.monotonic() - began
            trial = replace(trial, predicted=self._predicted.get(trial.candidate.key))
            self.store.add(trial)
            self.trials.append(trial)
            self.measured += 1
            self.failed += trial.failure is not None
            evaluation = self._asked[trial.candidate.key]
            self.state.tell([(evaluation, trial.seconds)])
            self.message = self._describe(trial, evaluation)
            yield trial
        results.close()  # type: ignore[attr-defined]

    def _describe(self, trial: Trial, evaluation: Evaluation) -> str:
        cores = f"{trial.candidate.cores} core{'s' if trial.candidate.cores > 1 else ''}"
        return f"measuring {describe(self.state.space.workload(evaluation[0]))}, {cores}"

    def _latency(self) -> float | None:
        try:
            choice = self.strategy.choose(self.state)
        except InternalError:
            return None
        return choice.seconds if is_known(self.state, choice) else None
