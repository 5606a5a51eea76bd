"""Looks for a better plan around a tuned one on a real device: other fusions, core counts and layouts.

The blocks of the plan that was tuned are known; a Strategy says which others of the whole plan space to measure.
A new block is tried with its template's default knobs and with the best knobs of known blocks around the same heavy
layer, which mostly suit it too, so that one costs two or three trials.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from cost_model.block_model import BlockModel
from tuner.errors import InternalError
from tuner.graph.ir import Graph
from tuner.measure.runner import Runner
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.joins import is_free
from tuner.plan.partition import Choice, to_plan
from tuner.plan.plan import IMPORTED, VIEW, Plan
from tuner.plan.space import Evaluation, PlanSpace, plan_space
from tuner.precision import FP32
from tuner.search.blocks import machine_of
from tuner.search.knobs import KnobSearch
from tuner.search.predictor import BlockPredictor
from tuner.search.questions import Asked, Question, question_of, record_keys
from tuner.search.samples import Samples
from tuner.search.served import Served
from tuner.search.strategies.base import State, Strategy, evaluations_of, is_known
from tuner.search.tuning import Tuning
from tuner.types import Candidate, Device, Purpose, Trial

BATCH, MOST = 4, 32  # evaluations asked of the strategy at once: the fewest, and the most
SHARE = 0.05  # of the time that measuring them takes, for asking
HANDED_ON = 2  # best knobs of kindred blocks that a new block is tried with
_NOTHING = 0.0  # seconds of views and free concatenations, which compute nothing, and of layers in no other block


@dataclass(frozen=True)
class Asking:
    """What all further questions of a job have in common."""

    device: Device
    cores: tuple[int, ...]
    precision: str
    exact: frozenset[str]  # as in ``tuner.search.questions``
    residency: str
    seed: int

    def question(self, workload: Graph, layouts: Mapping[str, str], template: str) -> Question:
        """How fast is this workload with these layouts, by this template or another?"""
        return question_of(
            workload, layouts, template, self.device, cores=self.cores, precision=self.precision, seed=self.seed,
            exact=self.exact, residency=self.residency, alternatives=True, planned=max(self.cores),
        )  # fmt: skip

    def record_keys(self, workload: Graph, layouts: Mapping[str, str], template: str) -> list[str]:
        """Those of what the question would look for."""
        return record_keys(
            workload, layouts, template, self.device, cores=self.cores, precision=self.precision, exact=self.exact,
            residency=self.residency,
        )  # fmt: skip


@dataclass
class Replanning:
    """One search for a plan. ``tuning`` holds what is known, and measures; ``asking`` makes further questions."""

    state: State
    strategy: Strategy
    tuning: Tuning
    asking: Asking
    _asked: dict[int, Question] = field(default_factory=dict)  # by the space's questions

    def __post_init__(self) -> None:
        self._unasked = _unasked(self.space)
        known = {_identity(q.workload, q.layouts, q.template): q for q in self.tuning.questions}
        for number, asked in enumerate(self.space.questions):
            if number in self._unasked:
                self.state.tell(((number, c), _NOTHING) for c in range(len(self.space.cores)))
            else:
                key = _identity(self.space.workload(number), self.space.layouts(number), asked.template)
                if key in known:
                    self._asked[number] = known[key]
                    self.tell(number)

    @property
    def space(self) -> PlanSpace:
        return self.state.space

    def recall(self) -> None:
        """Take in what this job or others have measured of blocks that the tuned plan does not have."""
        asker = {key: n for n in range(len(self.space.questions)) if self._open(n) for key in self._record_keys(n)}
        heard = self.tuning.heard(asker)
        new = {n: self._question(n) for n in sorted({asker[key] for key in heard.record_keys})}
        self.tuning.add(*new.values(), heard=heard)
        self._asked |= new
        for number in new:
            self.tell(number)

    def run(self, runner: Runner, trials: int | None, deadline: float | None) -> Iterator[Trial]:
        """Measure within the budget; yields each trial after it was stored.

        Of a large space, where asking takes long, more is asked for at once if the budget is of time.
        """
        count = BATCH
        with self.tuning.deciding():
            while True:
                began = time.monotonic()
                wanted = self.strategy.propose(self.state, count)
                if not wanted:
                    return
                asked, before = time.monotonic(), self.tuning.measured
                candidates = [c for e in wanted for c in self._candidates(e)]
                yield from self.tuning.measure(runner, candidates, Purpose.SEARCH, trials, deadline)
                if deadline is not None:
                    count = at_once(asked - began, (time.monotonic() - asked) / len(wanted))
                for number, _ in wanted:
                    self.tell(number)
                if self.tuning.measured - before < len(candidates):
                    return  # the budget is spent
                # Nothing came of some: they failed.
                self.state.tell((e, None) for e in wanted if np.isnan(self.state.seconds[e]))

    def choice(self) -> Choice | None:
        """The strategy's plan of measured blocks; None while there is none."""
        try:
            choice = self.strategy.choose(self.state)
        except InternalError:
            return None
        return choice if is_known(self.state, choice) else None

    def settle(self, choice: Choice, besides: Iterable[Question] = ()) -> None:
        """Leave the chosen blocks their core counts alone; of equal blocks on several the faster count.

        Questions ``besides`` stay as they are.
        """
        free = {id(question) for question in besides}
        counts: dict[int, set[int]] = {}
        for number, index in evaluations_of(self.space, choice):
            counts.setdefault(number, set()).add(index)
        for number in counts.keys() & self._asked.keys():
            fastest = min(counts[number], key=lambda i: float(self.state.seconds[number, i]))
            if id(self._asked[number]) not in free:
                self._asked[number].settle(self.space.cores[fastest])

    def plan(self, choice: Choice) -> tuple[Plan, Asked]:
        """The choice as a plan, and the questions that its blocks ask."""
        blocks = [self.space.blocks[index] for index in choice.blocks]
        return to_plan(self.space, choice), {
            b.layers: self._asked[b.question] for b in blocks if b.question in self._asked
        }

    def question(self, number: int) -> Question | None:
        """What a question of the space is called in the tuning; None if it was never asked, or needs no measuring."""
        return self._asked.get(number)

    def searches(self, evaluation: Evaluation) -> list[KnobSearch]:
        """Those that look for a kernel for it; none for views, and before it was asked."""
        number, index = evaluation
        asked = self._asked.get(number)
        return [s for (_, cores), s in asked.searches.items() if cores == self.space.cores[index]] if asked else []

    def fastest(self, evaluation: Evaluation) -> KnobSearch | None:
        """The search that knows the fastest kernel for it; None while none is known."""
        known = [s for s in self.searches(evaluation) if s.best]
        return min(known, key=lambda s: s.best[1] if s.best else np.inf, default=None)

    def tell(self, number: int) -> None:
        """Take over what is known of a question by now."""
        for index in range(len(self.space.cores)):
            search = self.fastest((number, index))
            if search is not None and search.best is not None:
                self.state.tell([((number, index), search.best[1])])

    def _candidates(self, evaluation: Evaluation) -> list[Candidate]:
        number, index = evaluation
        if number not in self._asked:
            self._asked[number] = self._question(number)
            self.tuning.add(self._asked[number])
        question, cores = self._asked[number], self.space.cores[index]
        found = []
        for (name, count), search in question.searches.items():
            if count != cores:
                continue
            knobs = [dict(search.space.default), *self._handed_on(question, name)]
            distinct = {tuple(sorted(k.items())): k for k in knobs if k in search.space and not search.knows(k)}
            found += [search.with_knobs(k) for k in distinct.values()]
        return found

    def _open(self, number: int) -> bool:
        """Whether it can be asked, and was not yet."""
        return number not in self._asked and number not in self._unasked

    def _question(self, number: int) -> Question:
        return self.asking.question(*self._about(number))

    def _record_keys(self, number: int) -> list[str]:
        return self.asking.record_keys(*self._about(number))

    def _about(self, number: int) -> tuple[Graph, dict[str, str], str]:
        """Workload, layouts and template of a question of the space."""
        return self.space.workload(number), self.space.layouts(number), self.space.questions[number].template

    def _handed_on(self, question: Question, template: str) -> list[dict[str, int]]:
        """The best knobs of known questions around the same heavy layer, the fastest first."""
        kin, found = _heavy(question.workload), []
        for other in self.tuning.questions:
            if _heavy(other.workload) == kin:
                found += [k for (name, _), s in other.searches.items() if name == template for k in s.ranked(1)]
        return [dict(knobs) for knobs, _ in sorted(found, key=lambda f: f[1])[:HANDED_ON]]


def at_once(asking: float, measuring: float) -> int:
    """How many evaluations to ask for, where asking takes so many seconds, and measuring one."""
    return min(max(ceil(asking / (SHARE * measuring)), BATCH), MOST) if measuring > 0 else BATCH


def replan(
    graph: Graph, cores: Sequence[int], residency: str, tuning: Tuning, strategy: Strategy,
    samples: Samples | None = None, precision: str = FP32, exact: frozenset[str] = frozenset(),
    narrow: Collection[str] = (),
) -> Replanning:  # fmt: skip
    """A strategy's search for a better plan of a Graph than the one that ``tuning`` is about.

    ``samples``: what is known of the device; without any the model learns from ``tuning`` alone. ``precision`` and
    ``exact`` are as in ``tuner.search.questions``, ``narrow`` as in ``Served``.
    """
    device, machine = tuning.device, machine_of(tuning.device)
    conversions = {name: 2 * tensor.bytes / machine.bandwidth for name, tensor in graph.tensors.items()}
    space = plan_space(graph, device, cores, Served(device, narrow), residency=residency, conversions=conversions)
    predictor = BlockPredictor(space, BlockModel(machine, tuning.seed), samples)
    asking = Asking(device, tuple(cores), precision, exact, residency, tuning.seed)
    return Replanning(State(space, tuning.seed, predictor=predictor), strategy, tuning, asking)


def _unasked(space: PlanSpace) -> frozenset[int]:
    """Questions that no measurement answers: of views, of imported layers, and of concatenations without a kernel."""
    foreign = {k for k, question in enumerate(space.questions) if question.template in {VIEW, IMPORTED}}
    served = {i for block in space.blocks if block.question not in foreign for i in block.layers}
    costly = {b.question for b in space.blocks if not is_free(space.graph, b, served)}
    return frozenset(foreign | (set(range(len(space.questions))) - costly))


def _identity(workload: Graph, layouts: Any, template: str) -> tuple[Any, ...]:
    return workload.hash, tuple(sorted(layouts.items())), template


def _heavy(workload: Graph) -> tuple[Any, ...] | None:
    """What the first layer that is not elementwise is: equal for blocks that differ in what is fused to it."""
    layer = next((x for x in workload.layers if x.op not in ELEMENTWISE), None)
    if layer is None:
        return None
    return layer.op, layer.attrs, tuple(workload.type_of(n).shape for n in (*layer.inputs, *layer.outputs) if n)
