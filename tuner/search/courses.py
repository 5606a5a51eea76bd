"""In which order a job on a real device looks for plans and for kernels.

A course ends with plans whose blocks ask questions that were answered as well as the budget allowed. Whoever builds
them measures them as wholes, and keeps the fastest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from tuner.errors import UserError
from tuner.measure.runner import Runner
from tuner.plan.partition import conversion_seconds
from tuner.plan.plan import Plan
from tuner.search.confirmation import Confirmation
from tuner.search.foreseeing import Foreseen, default_seconds, known_seconds, memory_rate
from tuner.search.questions import Asked
from tuner.search.replanning import Replanning
from tuner.search.strategies import registry
from tuner.search.strategies.base import Strategy
from tuner.search.strategies.joint import Joint
from tuner.search.tuning import Tuning
from tuner.types import Trial

PARTS = (0.55, 0.75, 0.85)  # of its search, at which joint has tuned, has looked for other plans, is sure of its plan
SURE_SHARE = 0.6  # of what is left then for measuring the plan's best kernels again: what was chosen for being the
# fastest among many was lucky, and its time tells too little
PLAN_SHARE = 0.5  # of the search that other strategies may spend on choosing a plan before its kernels are tuned

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

    def foreseen(self, whole: float | None = None) -> Foreseen | None:
        """What "tuned" should take; None while one of its blocks is unknown.

        ``whole``: seconds that the plan begun with takes, if it was timed.
        """
        asked = self.found()["tuned"].asked
        rate = memory_rate([*asked.values(), *self.begun.asked.values()], self.tuning.device)
        blocks = known_seconds(asked, rate)
        if blocks is None:
            return None
        begun, converting = default_seconds(self.begun.plan, self.begun.asked, rate), self._converting
        return Foreseen(blocks + converting[0], None if begun is None else begun + converting[1], whole)

    @property
    def _converting(self) -> tuple[float, float]:
        """Seconds that changes of layout should take in the plan found and in the one begun with."""
        return 0.0, 0.0


class AsBegun(Course):
    """Nothing is searched, nor recalled."""

    def recall(self) -> None:
        return

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        yield from ()

    def found(self) -> dict[str, Planned]:
        return {"tuned": self.begun}


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

    def _part(self, share: float, trials: int | None, deadline: float | None) -> tuple[int | None, float | None]:
        """Where this share of a budget ends."""
        now = self.tuning.clock.seconds
        return (
            None if trials is None else round(trials * share),
            None if deadline is None else now + share * max(0.0, deadline - now),
        )


class KernelsThenPlans(_Replanned):
    """``joint``: tune the plan begun with, look for a better one around what is known by then, and tune that.

    Another plan is taken up only if it holds when it is measured again (see ``Confirmation``).
    """

    most = 2

    def __init__(self, begun: Planned, tuning: Tuning, replan: Replan) -> None:
        super().__init__(begun, tuning, replan)
        self._chosen: Planned | None = None
        self._conversions = 0.0, 0.0

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        tuned, planned, confirmed = (self._part(share, trials, deadline) for share in PARTS)
        yield from self.tuning.run(runner, *tuned)
        replanning = self._replanned()
        yield from replanning.run(runner, *planned)
        confirmation = Confirmation(replanning, self.begun.plan, self.begun.asked)
        yield from confirmation.run(runner, *confirmed)
        self._choose(confirmation)
        yield from self.tuning.run(runner, trials, deadline, SURE_SHARE)

    def found(self) -> dict[str, Planned]:
        if self._chosen is None:
            self._choose(Confirmation(self._replanning or self._replanned(), self.begun.plan, self.begun.asked))
        assert self._chosen is not None
        return {"tuned": self._chosen} | ({} if self._chosen is self.begun else {"greedy": self.begun})

    @property
    def _converting(self) -> tuple[float, float]:
        return self._conversions

    def _choose(self, confirmation: Confirmation) -> None:
        begun, choice = confirmation.begun(), confirmation.choice()
        costs = [0.0 if c is None else conversion_seconds(confirmation.replanning.space, c) for c in (choice, begun)]
        self._conversions = costs[0], costs[1]
        if choice is None or (begun is not None and set(choice.blocks) == set(begun.blocks)):
            self._chosen = self.begun
            return
        confirmation.replanning.settle(choice, besides=self.begun.asked.values())
        self._chosen = Planned(*confirmation.replanning.plan(choice))
        self.tuning.focus(self._chosen.asked)


class PlansThenKernels(_Replanned):
    """Every other strategy: choose a plan by its blocks' untuned kernels, then tune those of the plan chosen."""

    def __init__(self, begun: Planned, tuning: Tuning, replan: Replan) -> None:
        super().__init__(begun, tuning, replan)
        self._chosen: Planned | None = None

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        replanning, planned = self._replanned(), self._part(PLAN_SHARE, trials, deadline)
        yield from replanning.run(runner, *planned)
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
