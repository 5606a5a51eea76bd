"""Strategies that measure all of a part of the space, and answer with the best plan of that part."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from tuner.errors import UserError
from tuner.plan.partition import Choice, Table, best_partition
from tuner.plan.space import Evaluation, PlanSpace
from tuner.search.strategies.base import Predictor, State, Strategy
from tuner.search.strategies.schemes import Scheme


@dataclass(frozen=True)
class Part:
    """Some of a space: blocks that may be in a plan, and evaluations that may be measured for them."""

    blocks: tuple[int, ...]  # indexes into space.blocks, ascending
    allowed: np.ndarray  # bool [questions, cores]

    @property
    def evaluations(self) -> int:
        """How many measurements the whole part takes."""
        return int(self.allowed.sum())


class Restricted(Strategy):
    """Says with ``part`` what it would measure. The part follows from the space and the predictor alone."""

    _known: tuple[PlanSpace, Predictor | None, Part] | None = None  # the part made last, and what it follows from

    @abstractmethod
    def part(self, state: State) -> Part:
        """What to measure. Raises UserError when it cannot handle the space."""

    def propose(self, state: State, count: int) -> list[Evaluation]:
        # All blocks on the most cores first: a search that is cut short has whole plans to choose from.
        columns, questions = np.nonzero((np.isnan(state.seconds) & self._part(state).allowed).T[::-1])
        last, most = len(state.space.cores) - 1, max(0, min(count, state.left))
        return [(int(q), last - int(c)) for q, c in zip(questions[:most], columns[:most], strict=True)]

    def choose(self, state: State) -> Choice:
        return best_within(state.space, self._part(state), state.seconds)

    def _part(self, state: State) -> Part:
        known = self._known
        if known is None or known[0] is not state.space or known[1] is not state.predictor:
            known = self._known = (state.space, state.predictor, self.part(state))
        return known[2]


def best_within(space: PlanSpace, part: Part, seconds: Table) -> Choice:
    """The best plan of a part. Raises InternalError (``no-plan``) when none has all its times."""
    smaller = replace(space, blocks=tuple(space.blocks[b] for b in part.blocks))
    choice = best_partition(smaller, np.where(part.allowed, seconds, np.nan))
    return replace(choice, blocks=tuple(part.blocks[b] for b in choice.blocks))


def part_of(space: PlanSpace, blocks: Iterable[int], columns: Iterable[int]) -> Part:
    """These blocks, each on every core count of these columns."""
    chosen = tuple(sorted(blocks))
    allowed = np.zeros((len(space.questions), len(space.cores)), dtype=bool)
    allowed[np.ix_(sorted({space.blocks[b].question for b in chosen}), sorted(set(columns)))] = True
    return Part(chosen, allowed)


def blocks_of(space: PlanSpace, scheme: Scheme) -> list[int]:
    """The scheme's blocks, in each layout that the space has for them."""
    return [b for layers in scheme for b in space.block_of[layers]]


def column_of(space: PlanSpace, cores: float, strategy: str) -> int:
    """The index of a core count. Raises UserError when the space does not have it (``bad-option``)."""
    if cores not in space.cores:
        known = ", ".join(map(str, space.cores))
        raise UserError(
            f"The strategy {strategy} needs cores={cores:g}, which is not among the core counts considered.",
            code="bad-option", hint=f"These are {known}.",
        )  # fmt: skip
    return space.cores.index(int(cores))


def few_counts(space: PlanSpace) -> list[int]:
    """The columns of core counts that are powers of two, and of the largest count."""
    last = len(space.cores) - 1
    return [i for i, count in enumerate(space.cores) if count & (count - 1) == 0 or i == last]
