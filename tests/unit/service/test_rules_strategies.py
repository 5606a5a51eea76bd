"""Strategies by device, as clients may name them."""

from __future__ import annotations

import pytest

from service.rules import SIMULATED_STRATEGIES, check_strategy, default_strategy
from tuner.errors import UserError
from tuner.search.strategies.registry import STRATEGIES


def test_names_on_simulated_devices_are_those_of_the_registry() -> None:
    assert set(SIMULATED_STRATEGIES) == set(STRATEGIES)


def test_a_device_knows_its_own_strategies() -> None:
    check_strategy("joint", "sim:mlu100")
    check_strategy("greedy", "cpu")
    for name, device in (("greedy", "sim:mlu100"), ("dlfusion", "cpu"), ("", "cpu")):
        with pytest.raises(UserError) as refused:
            check_strategy(name, device)
        assert refused.value.code == "unknown-strategy" and device in str(refused.value.hint)


def test_the_default_is_known() -> None:
    for device in ("cpu", "sim:xeon-4214r"):
        check_strategy(default_strategy(device), device)
