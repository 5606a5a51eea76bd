"""Whether what a plan search found holds when it is measured again."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.search.search_fakes import FakeRunner, MemoryStore
from tests.unit.search.test_replanning import CORES, residual_net, seconds, tuned
from tuner.plan.plan import Plan
from tuner.search.confirmation import CAUTION, FINALS, Confirmation
from tuner.search.fusion import greedy
from tuner.search.replanning import replan
from tuner.search.strategies.joint import Joint
from tuner.types import Candidate, Purpose

GRAPH = residual_net()


def split(candidate: Candidate) -> bool:
    """A sum that no convolution is fused with: greedy has none."""
    ops = [layer["op"] for layer in candidate.workload["layers"]]
    return "Add" in ops and "Conv" not in ops


def fused_is_best(candidate: Candidate) -> float:
    ops = [layer["op"] for layer in candidate.workload["layers"]]
    return (1e-3 * ("Conv" in ops) + 1e-4 + 1e-5 * len(ops)) / candidate.cores


def fused_is_best_alone() -> float:
    """The convolution that nothing is fused with, on all cores."""
    return (1e-3 + 1e-4 + 1e-5) / max(CORES)


class Lucky(FakeRunner):
    """Blocks with a lone sum take nearly nothing when they are first measured."""

    def run(self, candidates, purpose=Purpose.SEARCH, best_seconds=None):  # type: ignore[no-untyped-def]
        luck = purpose is not Purpose.FINAL
        self.seconds = lambda c: 1e-7 if luck and split(c) else fused_is_best(c)
        yield from super().run(candidates, purpose, best_seconds)


def confirmation(runner: FakeRunner) -> Confirmation:
    tuning, asked = tuned(runner, GRAPH)
    replanning = replan(GRAPH, CORES, "cache", tuning, Joint())
    for _ in replanning.run(runner, None, None):
        pass
    return Confirmation(replanning, greedy(GRAPH, tuning.device, max(CORES)), asked)


def layers(plan: Plan) -> set[tuple[str, ...]]:
    return {block.layers for block in plan.blocks}


def confirm(made: Confirmation, runner: FakeRunner, trials: int | None = None) -> None:
    for _ in made.run(runner, trials, None):
        pass


def test_luck_does_not_hold() -> None:
    runner = Lucky()
    made = confirmation(runner)
    lucky = made.replanning.choice()
    assert lucky is not None and layers(made.replanning.plan(lucky)[0]) != layers(made.plan)
    confirm(made, runner)
    choice = made.choice()
    assert choice is not None and layers(made.replanning.plan(choice)[0]) == layers(made.plan)


def test_what_is_better_is_taken_and_both_sides_were_measured_again() -> None:
    runner = FakeRunner(seconds)
    made = confirmation(runner)
    confirm(made, runner)
    choice, begun = made.choice(), made.begun()
    assert choice is not None and begun is not None and choice.seconds < (1 - CAUTION) * begun.seconds
    plan, asked = made.replanning.plan(choice)
    assert layers(plan) != layers(made.plan)
    again = Counter(c.record_key for c, purpose in runner.asked if purpose is Purpose.FINAL)
    for block, question in asked.items():
        if block not in made.asked:
            best = question.answer()
            assert again[question.searches[best.template, best.cores].candidate.record_key] >= FINALS
    replaced = [q for block, q in made.asked.items() if block not in asked]
    assert replaced and all(any(again[s.candidate.record_key] for s in q.searches.values()) for q in replaced)
    before = len(runner.asked)
    confirm(made, runner)
    assert len(runner.asked) == before, "what is confirmed is not measured again"


def test_without_the_budget_to_confirm_it_stays_with_the_plan_begun_with() -> None:
    runner = FakeRunner(seconds)
    made = confirmation(runner)
    confirm(made, runner, trials=made.replanning.tuning.measured)
    choice, begun = made.choice(), made.begun()
    assert choice is not None and begun is not None and choice.blocks == begun.blocks


@pytest.mark.parametrize(("share", "taken"), [(0.5, False), (1.5, True)])
def test_a_gain_has_to_be_worth_another_plan(share: float, taken: bool) -> None:
    lone = 1e-7

    def taking(candidate: Candidate) -> float:
        return lone if split(candidate) else fused_is_best(candidate)

    made = confirmation(runner := FakeRunner(taking))
    confirm(made, runner)
    choice, begun = made.choice(), made.begun()
    assert choice is not None and begun is not None
    spared, conv = begun.seconds - choice.seconds + lone, fused_is_best_alone()
    lone = spared - share * CAUTION * (conv + spared)  # so that the gain is this share of what is asked for
    made = confirmation(runner := FakeRunner(taking))
    confirm(made, runner)
    choice = made.choice()
    assert choice is not None
    assert (layers(made.replanning.plan(choice)[0]) != layers(made.plan)) == taken


@pytest.mark.parametrize("stored", [False, True])
def test_trials_from_a_store_confirm_as_measured_ones_do(stored: bool) -> None:
    made = confirmation(runner := FakeRunner(seconds))
    confirm(made, runner)
    chosen = made.choice()
    tuning, asked = tuned(FakeRunner(seconds), GRAPH)
    tuning.store = MemoryStore(made.replanning.tuning.trials if stored else ())
    replanning = replan(GRAPH, CORES, "cache", tuning, Joint())
    replanning.recall()
    choice = Confirmation(replanning, made.plan, asked).choice()
    assert choice is not None and chosen is not None
    assert (choice.blocks == chosen.blocks) == stored
