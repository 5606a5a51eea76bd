"""Plans that follow without a measurement are those that the same strategies choose when all is measured."""

from __future__ import annotations

import pytest

from tests.unit.plan.plan_graphs import DEVICE
from tests.unit.search.strategies.strategy_toys import chain, run, spaces, state_of, truth
from tuner.errors import InternalError, UserError
from tuner.plan.chains import AnyChain
from tuner.plan.space import PlanSpace, plan_space
from tuner.search.strategies.registry import STRATEGIES, strategy
from tuner.search.strategies.unmeasured import UNMEASURED, unmeasured

SPACES = {name: space for name, space in spaces().items() if name != "layouts"}  # as simulated devices have them


@pytest.mark.parametrize("name", UNMEASURED)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_measuring_would_not_change_them(name: str, space: PlanSpace) -> None:
    for seed in (0, 1):
        table = truth(space, seed)
        state, searching = state_of(space, table), strategy(name)
        run(searching, state, table)
        measured, found = searching.choose(state), unmeasured(space, name)
        assert (found.blocks, found.cores) == (measured.blocks, measured.cores)


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - set(UNMEASURED)))
def test_others_are_refused(name: str) -> None:
    with pytest.raises(InternalError) as raised:
        unmeasured(SPACES["chain"], name)
    assert raised.value.code == "not-fixed"


def test_the_others_make_do_without_one_core() -> None:
    space = plan_space(chain(), DEVICE, (2, 4), AnyChain(3))
    with pytest.raises(UserError, match="cores=1"):
        unmeasured(space, "none")
    assert {c for name in UNMEASURED if name != "none" for c in unmeasured(space, name).cores} == {4}


def test_options_reach_the_strategy() -> None:
    assert set(unmeasured(SPACES["chain"], "fixed-greedy", cores=2).cores) == {2}
