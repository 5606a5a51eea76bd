"""What every registered strategy promises; see the contract of Strategy."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
import pytest

from tests.unit.plan.plan_graphs import DEVICE, graph_of
from tests.unit.search.strategies.strategy_toys import run, spaces, state_of, tell, truth
from tuner.errors import InternalError, UserError
from tuner.plan.chains import AnyChain
from tuner.plan.partition import Choice, best_partition, choice_seconds
from tuner.plan.space import PlanSpace, crossing, plan_space
from tuner.search.strategies.base import State, Strategy
from tuner.search.strategies.registry import STRATEGIES, strategy

SPACES = ("chain", "residual", "tangle", "layouts")
FEW = {"random": {"plans": 30}, "tpe": {"plans": 12, "startup": 4}}  # options that keep these tests quick


@cache
def space_called(name: str) -> PlanSpace:
    return spaces()[name]


def make(name: str) -> Strategy:
    return strategy(name, **FEW.get(name, {}))


def covers(space: PlanSpace, choice: Choice) -> bool:
    """Whether every layer is run once, and after what it reads."""
    made = set(space.graph.inputs)
    for index in choice.blocks:
        layers = space.blocks[index].layers
        if not made.issuperset(crossing(space.graph, layers)[0]):
            return False
        made.update(n for i in layers for n in space.graph.by_id[i].outputs)
    return sorted(i for b in choice.blocks for i in space.blocks[b].layers) == sorted(space.graph.by_id)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("space", SPACES)
class TestEveryStrategy:
    def test_it_ends_with_a_plan_of_what_it_measured(self, name: str, space: str) -> None:
        where = space_called(space)
        table = truth(where)
        state = state_of(where, table)
        searching = make(name)
        assert run(searching, state, table)
        choice = searching.choose(state)
        assert covers(where, choice)
        assert choice_seconds(where, choice, state.seconds) == pytest.approx(choice.seconds)
        assert choice.seconds >= best_partition(where, table).seconds - 1e-9

    def test_a_budget_is_never_exceeded(self, name: str, space: str) -> None:
        where = space_called(space)
        table = truth(where)
        for budget in (0, 1, 7):
            state = state_of(where, table, budget=budget)
            run(make(name), state, table, batch=3)
            assert state.measured <= budget
            assert make(name).done(state) or state.left

    def test_a_new_instance_goes_on_where_the_last_one_was(self, name: str, space: str) -> None:
        """Killed after any batch, results told again in any order: the same proposals follow."""
        where = space_called(space)
        table = truth(where)
        state = state_of(where, table, seed=3)
        batches = run(make(name), state, table, batch=5)
        told = []
        for number, batch in enumerate(batches):
            if number in {0, 1, 2, 5, len(batches) // 2, len(batches) - 1}:
                again = state_of(where, table, seed=3)
                tell(again, Random(number).sample(told, len(told)), table)
                assert make(name).propose(again, 5) == batch
            told += batch
        again = state_of(where, table, seed=3)
        tell(again, Random(0).sample(told, len(told)), table)
        assert make(name).done(again)
        finished = make(name)
        run(finished, state, table)
        assert make(name).choose(again) == finished.choose(state)

    def test_an_instance_keeps_nothing_of_another_state(self, name: str, space: str) -> None:
        where = space_called(space)
        table, other = truth(where), truth(where, 1)
        used = make(name)
        run(used, state_of(where, other, seed=1), other)
        mine, fresh = state_of(where, table), state_of(where, table)
        assert run(used, mine, table) == run(make(name), fresh, table)
        assert used.choose(mine) == make(name).choose(fresh)

    def test_what_failed_is_in_no_plan(self, name: str, space: str) -> None:
        where = space_called(space)
        table = truth(where)
        failing = np.random.default_rng(5).random(table.shape) < 0.15
        for block in where.blocks:
            failing[block.question] &= len(block.layers) > 1
        table = np.where(failing, np.inf, table)
        state = State(where, predictor=state_of(where, truth(where)).predictor)
        searching = make(name)
        run(searching, state, table)
        try:
            choice = searching.choose(state)
        except InternalError as error:
            # One plan alone was to be measured, and it has a block that failed.
            assert error.code == "no-plan" and name.startswith(("fixed", "cores", "dlfusion"))
        else:
            assert np.isfinite(choice.seconds)
            assert choice_seconds(where, choice, table) == pytest.approx(choice.seconds)

    def test_it_asks_for_nothing_that_others_have_measured(self, name: str, space: str) -> None:
        where = space_called(space)
        table = truth(where)
        plain = state_of(where, table)
        alone = make(name)
        run(alone, plain, table)
        shared = state_of(where, table)
        half = [(q, c) for q in range(len(where.questions)) for c in (0, 3)]
        tell(shared, half, table)
        searching = make(name)
        run(searching, shared, table)
        assert shared.measured <= len(half) + plain.measured
        assert searching.choose(shared).seconds <= alone.choose(plain).seconds + 1e-9 or name in {"joint", "tpe"}

    def test_everything_known_leaves_nothing_to_do(self, name: str, space: str) -> None:
        where = space_called(space)
        table = truth(where)
        state = state_of(where, table)
        tell(state, np.ndindex(*table.shape), table)
        assert make(name).done(state) and make(name).propose(state, 9) == []
        assert covers(where, make(name).choose(state))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_model_of_no_layers_has_an_empty_plan(name: str) -> None:
    where = plan_space(graph_of([], ["x"]), DEVICE, (1, 2), AnyChain())
    state = state_of(where, np.zeros((0, 2)))
    assert make(name).done(state) and make(name).choose(state).blocks == ()


class TestTheRegistry:
    @pytest.mark.parametrize(
        ("name", "options", "code", "said"),
        [
            ("best", {}, "unknown-strategy", "best"),
            ("none", {"cores": 1}, "bad-option", "cores"),
            ("fixed-layers", {"cores": 1.5}, "bad-option", "cores"),
            ("fixed-layers", {"cores": -1}, "bad-option", "cores"),
            ("exhaustive", {"limit": float("nan")}, "bad-option", "limit"),
            ("joint", {"optimism": float("inf")}, "bad-option", "optimism"),
        ],
    )
    def test_what_is_wrong_is_named(self, name: str, options: dict[str, float], code: str, said: str) -> None:
        with pytest.raises(UserError) as refused:
            strategy(name, **options)
        assert refused.value.code == code and said in refused.value.message

    def test_options_replace_defaults(self) -> None:
        assert strategy("exhaustive", reduced=1).options == {"limit": 20_000, "reduced": 1}

    def test_every_strategy_says_what_it_is(self) -> None:
        for name, each in STRATEGIES.items():
            assert each.name == name and each.__doc__
