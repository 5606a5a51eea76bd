"""Strategies by device, as clients may name them."""

from __future__ import annotations

import pytest

from service.rules import SIMULATED_STRATEGIES, check_strategy
from tuner.errors import UserError
from tuner.search.strategies.registry import STRATEGIES
from tuner.types import JobSpec


def test_names_on_simulated_devices_are_those_of_the_registry() -> None:
    assert set(SIMULATED_STRATEGIES) == set(STRATEGIES)


def test_a_device_knows_its_own_strategies() -> None:
    check_strategy("joint", "sim:mlu100")
    for name in ("greedy", "dlfusion", "tpe:plans=200,startup=3"):
        check_strategy(name, "cpu")
    for name, device in (("greedy", "sim:mlu100"), ("annealing", "cpu"), ("", "cpu")):
        with pytest.raises(UserError) as refused:
            check_strategy(name, device)
        assert refused.value.code == "unknown-strategy" and device in str(refused.value.hint)


def test_the_default_is_known() -> None:
    for device in ("cpu", "sim:xeon-4214r"):
        check_strategy(JobSpec("ab").strategy, device)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("tpe:", "option=number"),
        ("tpe:plans", "option=number"),
        ("tpe:plans=many", "option=number"),
        ("tpe:plans=nan", "option=number"),
        ("tpe:plans=-1", "plans"),
        ("tpe:plans=1.5", "plans"),
        ("tpe:depth=3", "depth"),
        ("greedy:cores=2", "cores"),
    ],
)
def test_an_option_that_is_wrong_is_named(asked: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        check_strategy(asked, "cpu")
    assert refused.value.code == "bad-option" and refused.value.hint
