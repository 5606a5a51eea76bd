"""In which order a job on a real device looks for plans and for kernels.

A course ends with plans whose blocks ask questions that were answered as well as the budget allowed. Whoever builds
them measures them as wholes, and keeps the fastest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from tuner.errors import UserError
from tuner.measure.runner import Runner
from tuner.plan.plan import Plan
from tuner.search.questions import Question, distinct
from tuner.search.replanning import Replanning, stretched
from tuner.search.strategies import registry
from tuner.search.strategies.base import Strategy
from tuner.search.strategies.joint import Joint
from tuner.search.tuning import Tuning
from tuner.types import Trial

REPLAN_SHARE = 0.3  # of the search that joint spends on other plans than the one it begins with
PLAN_SHARE = 0.5  # of the search that other strategies may spend on choosing a plan before its kernels are tuned

Asked = Mapping[tuple[str, ...], Question]  # by the layers of the blocks that ask
Replan = Callable[[Tuning], Replanning]  # what searches plans, with what this tuning knows


@dataclass(frozen=True)
class Planned:
    """A plan whose blocks' templates, knobs and cores are left to the answers of its questions."""

    plan: Plan
    asked: Asked


class Course(ABC):
    """How one job searches. ``begun`` is the plan that the job begins with, and ``tuning`` measures its kernels."""

    most: ClassVar[int] = 1  # plans that ``found`` may hand over

    def __init__(self, begun: Planned, tuning: Tuning) -> None:
        self.begun, self.tuning = begun, tuning

    def recall(self) -> None:
        """Take in what is stored; what is known then is an answer, too."""
        self.tuning.recall()

    @abstractmethod
    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        """Measure within the budget, after ``recall``; yields each trial after it was stored."""

    @abstractmethod
    def found(self) -> dict[str, Planned]:
        """The plans to build, by the name of their contestant; "tuned" is the strategy's own."""

    def foreseen(self, whole: float | None) -> float | None:
        """Seconds that "tuned" should take as a whole, when the default plan took ``whole``; None if unknown."""
        return None


class KernelsOnly(Course):
    """The plan stays as it is."""

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        yield from self.tuning.run(runner, trials, deadline)

    def found(self) -> dict[str, Planned]:
        return {"tuned": self.begun}


class _Replanned(Course):
    """A course on which a Strategy looks for a plan."""

    def __init__(self, begun: Planned, tuning: Tuning, replan: Replan) -> None:
        super().__init__(begun, tuning)
        self._replan = replan
        self._replanning: Replanning | None = None

    def _replanned(self) -> Replanning:
        """The search for other plans, with all that is known of their blocks now."""
        with self.tuning.deciding():
            self._replanning = self._replan(self.tuning)
            self._replanning.recall()
        return self._replanning


class KernelsThenPlans(_Replanned):
    """``joint``: tune the plan begun with, then look for better ones around what is known by then."""

    most = 2

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        clock = self.tuning.clock
        first = None if deadline is None else deadline - REPLAN_SHARE * max(0.0, deadline - clock.seconds)
        yield from self.tuning.run(runner, None if trials is None else round(trials * (1 - REPLAN_SHARE)), first)
        yield from self._replanned().run(runner, trials, deadline)

    def found(self) -> dict[str, Planned]:
        replanning = self._replanning or self._replanned()
        choice = replanning.choice()
        return {"tuned": self.begun if choice is None else Planned(*replanning.plan(choice)), "greedy": self.begun}

    def foreseen(self, whole: float | None) -> float | None:
        choice = self._replanning.choice() if self._replanning else None
        stretch = stretched(whole, distinct(self.begun.asked))
        return choice.seconds * stretch if choice and stretch else None


class PlansThenKernels(_Replanned):
    """Every other strategy: choose a plan by its blocks' untuned kernels, then tune those of the plan chosen."""

    def __init__(self, begun: Planned, tuning: Tuning, replan: Replan) -> None:
        super().__init__(begun, tuning, replan)
        self._chosen: Planned | None = None

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        clock, replanning = self.tuning.clock, self._replanned()
        first = None if deadline is None else deadline - PLAN_SHARE * max(0.0, deadline - clock.seconds)
        yield from replanning.run(runner, None if trials is None else round(trials * PLAN_SHARE), first)
        if self._settle(replanning):
            yield from self.tuning.run(runner, trials, deadline)
        elif not self.tuning.stopped:
            raise UserError(
                f"The budget ended after {self.tuning.measured} trials, before {replanning.strategy.name} had a plan.",
                code="budget-too-small", hint="Give it more; what was measured is kept for the next job.",
            )  # fmt: skip

    def found(self) -> dict[str, Planned]:
        """Its plan; the one begun with when it was stopped before it had any."""
        if self._chosen is None:
            self._settle(self._replanning or self._replanned())
        return {"tuned": self._chosen or self.begun}

    def _settle(self, replanning: Replanning) -> bool:
        """Choose, if enough is known."""
        choice = replanning.choice()
        if choice is None:
            return False
        self._chosen = Planned(*replanning.plan(choice))
        replanning.settle(choice)
        self.tuning.focus(self._chosen.asked)
        return True


def course(strategy: str, begun: Planned, tuning: Tuning, replan: Callable[[Tuning, Strategy], Replanning]) -> Course:
    """The course of a strategy; "greedy" is satisfied with the plan that it begins with."""
    if strategy == "greedy":
        return KernelsOnly(begun, tuning)
    made = registry.strategy(strategy)
    ordered = KernelsThenPlans if isinstance(made, Joint) else PlansThenKernels
    return ordered(begun, tuning, lambda known: replan(known, made))
