"""Whether a plan that a search found is better than the one it began with, or was only lucky.

Of many blocks that were measured once, the plan that seems best is made of those whose noise made them small. So what
it and the plan begun with differ in is measured again, side by side, and the plan is chosen anew; until one is chosen
that holds. Even then another plan has to promise more than ``CAUTION``: the plan begun with was tuned longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tuner.errors import InternalError
from tuner.measure.runner import Runner
from tuner.plan.partition import Choice, best_partition, choice_seconds
from tuner.plan.plan import Plan
from tuner.plan.space import Evaluation
from tuner.search.questions import Asked, Question
from tuner.search.replanning import Replanning
from tuner.search.strategies.base import evaluations_of
from tuner.types import Candidate, Purpose, Trial

FINALS = 2  # re-measurements after which a time is believed
CAUTION = 0.02  # share of their time by which other blocks must be faster than those begun with


@dataclass
class Confirmation:
    """Chooses between the plan that a search began with and the best one around it that it measured."""

    replanning: Replanning
    plan: Plan  # begun with
    asked: Asked  # by its blocks

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        """Measure within the budget until the choice is confirmed; yields each trial after it was stored."""
        tuning = self.replanning.tuning
        with tuning.deciding():
            while again := self._unconfirmed(self._choose(known=True)):
                before = tuning.measured
                yield from tuning.measure(runner, list(again.values()), Purpose.FINAL, trials, deadline)
                for number, _ in again:
                    self.replanning.tell(number)
                if tuning.measured - before < len(again):
                    return  # the budget is spent

    def choice(self) -> Choice | None:
        """The best plan of blocks that were begun with or are confirmed, timed by what is known; None without any."""
        return self._choose(known=False)

    def begun(self) -> Choice | None:
        """The plan begun with as the space has it, each block on its fastest cores; None if a time is missing."""
        space, seconds = self.replanning.space, self.replanning.state.seconds
        blocks, cores = [], []
        for block in self.plan.blocks:
            offered = space.block_of.get(frozenset(block.layers), ())
            asked = self.asked.get(block.layers)
            found = next((b for b in offered if self._asks(b, asked, block.template)), None)
            if found is None or np.isnan(times := seconds[space.blocks[found].question]).all():
                return None
            blocks.append(found)
            cores.append(space.cores[int(np.nanargmin(times))])
        choice = Choice(tuple(blocks), tuple(cores), 0.0)
        return replace(choice, seconds=choice_seconds(space, choice, seconds))

    def _asks(self, block: int, asked: Question | None, template: str) -> bool:
        number = self.replanning.space.blocks[block].question
        if asked is None:
            return self.replanning.space.questions[number].template == template
        return self.replanning.question(number) is asked

    def _choose(self, known: bool) -> Choice | None:
        """``known``: blocks that were measured at all count, not only those that are confirmed."""
        begun, space, seconds = self.begun(), self.replanning.space, self.replanning.state.seconds
        own = set() if begun is None else set(evaluations_of(space, begun))
        table = seconds * (1 + CAUTION)
        for evaluation in own:
            table[evaluation] = seconds[evaluation]
        if not known:
            for number, index in np.argwhere(np.isfinite(seconds)):
                if (number, index) not in own:
                    table[number, index] = (1 + CAUTION) * self._sure((number, index))
        try:
            choice = best_partition(space, table)
        except InternalError:
            return begun
        return replace(choice, seconds=choice_seconds(space, choice, seconds))

    def _unconfirmed(self, choice: Choice | None) -> dict[Evaluation, Candidate]:
        """What the choice and the plan begun with differ in and is not measured again often enough."""
        begun, space = self.begun(), self.replanning.space
        chosen, own = (set(evaluations_of(space, c)) if c else set() for c in (choice, begun))
        differing = chosen ^ own
        found = {evaluation: self._again(evaluation) for evaluation in sorted(differing)}
        return {evaluation: candidate for evaluation, candidate in found.items() if candidate is not None}

    def _sure(self, evaluation: Evaluation) -> float:
        """Seconds of the fastest kernel for it that was measured again often enough; NaN without one."""
        if self.replanning.question(evaluation[0]) is None:
            return 0.0  # views
        searches = self.replanning.searches(evaluation)
        return min((s for search in searches for s in search.confirmed(FINALS)), default=np.nan)

    def _again(self, evaluation: Evaluation) -> Candidate | None:
        """The fastest kernel known for it, if that was not measured again often enough; views need no measuring."""
        search = self.replanning.fastest(evaluation)
        if search is None or search.best is None:
            return None
        knobs, _ = search.best
        return search.with_knobs(knobs) if search.finals(knobs) < FINALS else None
