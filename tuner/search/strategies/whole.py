"""Strategies that draw whole plans, measure their blocks, and answer with the best plan drawn.

Times of blocks are shared between plans, but parts of different plans are not put together to a better one: what these
find is what searching plan by plan finds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuner.errors import InternalError
from tuner.plan.partition import Choice, Table, choice_seconds
from tuner.plan.space import Evaluation, PlanSpace
from tuner.search.strategies.base import State, Strategy, evaluations_of, unknown


@dataclass(frozen=True)
class Whole:
    """A plan drawn."""

    choice: Choice  # its seconds are those of layout changes alone
    evaluations: tuple[Evaluation, ...]
    places: tuple[np.ndarray, np.ndarray]  # the same, to index a table with

    @staticmethod
    def of(space: PlanSpace, blocks: Sequence[int], cores: Sequence[int]) -> Whole:
        """From indexes of blocks in running order, and the core count of each."""
        choice = Choice(tuple(blocks), tuple(cores), 0.0)
        free = np.zeros((len(space.questions), len(space.cores)))
        choice = replace(choice, seconds=choice_seconds(space, choice, free))
        evaluations = tuple(evaluations_of(space, choice))
        questions, columns = np.array(evaluations, dtype=int).reshape(-1, 2).T
        return Whole(choice, evaluations, (questions, columns))

    def seconds(self, table: Table) -> float:
        """The plan's time: inf when a block failed, else NaN while one is unknown."""
        times = table[self.places]
        return float("inf") if np.isinf(times).any() else float(times.sum()) + self.choice.seconds


class WholePlans(Strategy):
    """Option: ``plans``, how many it draws at most."""

    @abstractmethod
    def plans(self, state: State) -> Iterator[Whole]:
        """Its plans, in the order in which it draws them; ends where the next depends on a time that is not known."""

    def propose(self, state: State, count: int) -> list[Evaluation]:
        wanted: dict[Evaluation, None] = {}
        most = min(count, state.left)
        if most <= 0:
            return []
        for plan in self.plans(state):
            if np.isnan(plan.seconds(state.seconds)):
                wanted.update(dict.fromkeys(unknown(state, plan.evaluations, most)))
                if len(wanted) >= most:
                    break
        return list(wanted)[:most]

    def choose(self, state: State) -> Choice:
        """The best of the plans up to the first that is not known in whole."""
        best, least = None, np.inf
        for plan in self.plans(state):
            seconds = plan.seconds(state.seconds)
            if np.isnan(seconds):
                break
            if seconds < least:
                best, least = plan, seconds
        if best is None:
            raise InternalError("No plan has a time for each of its blocks.", code="no-plan")
        return replace(best.choice, seconds=least)
