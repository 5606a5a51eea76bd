"""The Strategy seam, and the state it decides from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from tuner.plan.partition import Choice, Table
from tuner.plan.space import Evaluation, PlanSpace
from tuner.search.strategies.options import OPTIONS, Options


class Predictor(Protocol):
    """What tells times before they are measured."""

    def predict(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log-seconds for every evaluation, each ``[questions, cores]``."""


@dataclass
class State:
    """What is known of a space. Rebuilt from stored trials by telling them again.

    ``seconds`` holds what was last told of each evaluation: NaN = not measured, inf = failed.
    """

    space: PlanSpace
    seed: int = 0
    budget: int | None = None  # evaluations that may be measured in all
    predictor: Predictor | None = None  # trained before the search or during it; None = nothing to go by
    seconds: Table = field(init=False)
    order: list[Evaluation] = field(default_factory=list)  # evaluations as they were first measured
    _predicted: tuple[int, np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        self.seconds = np.full((len(self.space.questions), len(self.space.cores)), np.nan)

    def tell(self, results: Iterable[tuple[Evaluation, float | None]]) -> None:
        """Take in measured seconds; None = it failed."""
        for evaluation, seconds in results:
            if np.isnan(self.seconds[evaluation]):
                self.order.append(evaluation)
            self.seconds[evaluation] = np.inf if seconds is None else seconds

    @property
    def measured(self) -> int:
        """How many evaluations are known."""
        return len(self.order)

    @property
    def left(self) -> int:
        """How many more may be measured."""
        room = self.space.evaluations - self.measured
        return room if self.budget is None else max(0, min(room, self.budget - self.measured))

    @property
    def predicted(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log-seconds, each ``[questions, cores]``. Needs a predictor."""
        assert self.predictor is not None
        if self._predicted is None or self._predicted[0] != self.measured:
            self._predicted = (self.measured, *self.predictor.predict(self))
        return self._predicted[1:]

    def believed(self, optimism: float = 0.0) -> Table:
        """Measured seconds, and predicted ones where there are none, so many standard deviations to the fast side."""
        if self.predictor is None:
            return self.seconds
        mean, std = self.predicted
        return np.where(np.isnan(self.seconds), np.exp(mean - optimism * std), self.seconds)


class Strategy(ABC):
    """How a space is searched.

    Contract: what a strategy does follows from the state alone, so that a search which was interrupted goes on where it
    was. It never proposes what is known already, nor more than ``state.left``. ``propose`` raises UserError, before
    anything is measured, when it cannot handle the space. ``options`` are numbers by name: see ``options.OPTIONS``.
    """

    name: ClassVar[str]

    def __init__(self, **options: float) -> None:
        self.options: Options = {**OPTIONS[self.name], **options}

    @abstractmethod
    def propose(self, state: State, count: int) -> list[Evaluation]:
        """What to measure next, at most ``count``; nothing when it wants to know no more."""

    @abstractmethod
    def choose(self, state: State) -> Choice:
        """Its plan under what is known now. Raises InternalError (``no-plan``) while that is not enough."""

    def done(self, state: State) -> bool:
        """Whether it would propose nothing more."""
        return not state.left or not self.propose(state, 1)


def unknown(state: State, evaluations: Sequence[Evaluation], count: int) -> list[Evaluation]:
    """Those that are not known yet, each once, as many as may still be measured."""
    found = [e for e in dict.fromkeys(evaluations) if np.isnan(state.seconds[e])]
    return found[: min(count, state.left)]


def evaluations_of(space: PlanSpace, choice: Choice) -> list[Evaluation]:
    """What a choice's blocks stand on, in running order; equal blocks more than once."""
    index = {cores: i for i, cores in enumerate(space.cores)}
    return [(space.blocks[b].question, index[c]) for b, c in zip(choice.blocks, choice.cores, strict=True)]


def is_known(state: State, choice: Choice) -> bool:
    """Whether every block of the choice was measured."""
    return not any(np.isnan(state.seconds[e]) for e in evaluations_of(state.space, choice))
