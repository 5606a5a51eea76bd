"""The order in which a job looks for plans and kernels, for every strategy."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from service.rules import STRATEGIES
from tests.unit.search.search_fakes import DEVICE, FakeRunner, MemoryStore
from tests.unit.search.test_replanning import CORES, residual_net, seconds
from tuner.errors import UserError
from tuner.plan.legality import validate
from tuner.plan.plan import Plan
from tuner.search.courses import Course, Planned, course
from tuner.search.fusion import greedy
from tuner.search.questions import answered, distinct, questions
from tuner.search.replanning import replan
from tuner.search.tuning import Tuning
from tuner.types import Trial

GRAPH = residual_net()
SEARCHING = [name for name in STRATEGIES if name != "none"]  # which measures nothing on a real device


def begin(strategy: str, known: Sequence[Trial] = (), mine: Sequence[Trial] = ()) -> Course:
    plan = greedy(GRAPH, DEVICE, max(CORES))
    asked = questions(plan, GRAPH, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    tuning = Tuning(distinct(asked), DEVICE, MemoryStore(known, mine))
    made = course(
        strategy, Planned(plan, asked), tuning,
        lambda told, chosen: replan(GRAPH, CORES, "cache", told, chosen),
    )  # fmt: skip
    made.recall()
    return made


def follow(made: Course, trials: int = 80) -> FakeRunner:
    runner = FakeRunner(seconds)
    for _ in made.run(runner, trials, None):
        pass
    return runner


def result(made: Course, name: str = "tuned") -> Plan:
    found = made.found()[name]
    plan = answered(found.plan, found.asked)
    validate(plan, GRAPH, DEVICE.cores)
    return plan


@pytest.mark.parametrize("strategy", SEARCHING)
def test_every_strategy_ends_with_a_plan_whose_kernels_are_tuned(strategy: str) -> None:
    made = begin(strategy)
    runner = follow(made)
    plan = result(made)
    assert made.tuning.measured == len(runner.asked) <= 80
    assert sorted(i for block in plan.blocks for i in block.layers) == sorted(layer.id for layer in GRAPH.layers)
    asked = made.found()["tuned"].asked.values()
    assert asked and all(q.answer().seconds is not None for q in asked)
    assert any(len(s.results) > 3 for q in asked for s in q.mains), "knobs were searched"


def test_a_strategy_keeps_the_cores_that_it_chose() -> None:
    made = begin("fixed-layers:cores=2")
    follow(made)
    plan = result(made)
    assert len(list(plan.blocks)) == len(GRAPH.layers)
    assert {block.cores for block in plan.blocks} == {2}


def test_cores_are_found_block_by_block() -> None:
    made = begin("cores-layers")
    follow(made)
    assert len(list(result(made).blocks)) == len(GRAPH.layers)


def test_joint_also_hands_over_the_plan_it_began_with() -> None:
    made = begin("joint")
    follow(made)
    assert result(made).hash != result(made, "greedy").hash
    mine = sum(q.answer().seconds or 0.0 for q in made.found()["tuned"].asked.values())
    foreseen = made.foreseen()
    assert foreseen is not None
    assert foreseen.seconds == pytest.approx(mine, rel=0.1)  # and layouts
    assert foreseen.default is not None and foreseen.over_default == foreseen.default / foreseen.blocks > 1
    slower = made.foreseen(1.2 * foreseen.default)
    assert slower is not None and slower.seconds == pytest.approx(1.2 * foreseen.blocks), "as the plan begun with is"
    assert slower.over_default == foreseen.over_default


@pytest.mark.parametrize("strategy", ["greedy", "joint", "cores-greedy"])
def test_a_whole_is_foreseen_as_soon_as_all_of_its_blocks_were_measured(strategy: str) -> None:
    made = begin(strategy)
    assert made.foreseen() is None
    follow(made)
    asked = made.found()["tuned"].asked.values()
    foreseen = made.foreseen()
    assert foreseen is not None
    assert foreseen.seconds == pytest.approx(sum(q.answer().seconds or 0.0 for q in asked), rel=0.1)


@pytest.mark.parametrize("strategy", ["joint", "tpe:plans=30", "cores-greedy"])
def test_what_is_known_is_an_answer_without_measuring(strategy: str) -> None:
    first = begin(strategy)
    follow(first)
    again = begin(strategy, known=first.tuning.trials)
    assert result(again).hash == result(first).hash
    assert again.tuning.measured == 0


@pytest.mark.parametrize("strategy", ["joint", "tpe:plans=30", "cores-greedy"])
def test_a_search_that_was_killed_measures_nothing_twice(strategy: str) -> None:
    first = begin(strategy)
    runner = FakeRunner(seconds)
    steps = first.run(runner, 80, None)
    for _ in range(25):
        next(steps)
    again = begin(strategy, mine=first.tuning.trials)
    rest = follow(again)
    before = {c.key for c, purpose in runner.asked if purpose.value != "final"}
    assert not before.intersection(c.key for c, purpose in rest.asked if purpose.value != "final")
    assert again.tuning.measured <= 80


def test_a_budget_too_small_for_a_plan_is_said() -> None:
    made = begin("exhaustive")
    with pytest.raises(UserError, match="exhaustive") as refused:
        follow(made, 4)
    assert refused.value.code == "budget-too-small" and "kept" in str(refused.value.hint)


def test_one_that_is_stopped_early_falls_back_to_the_plan_it_began_with() -> None:
    made = begin("exhaustive")
    made.tuning.stop()
    assert follow(made).asked == []
    assert made.found()["tuned"] is made.begun
