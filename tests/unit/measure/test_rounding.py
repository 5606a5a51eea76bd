"""Which layers may have rounded weights: the largest effects go first, and no choice is trusted unmeasured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot, isnan, nan
from typing import Any

import pytest

from tuner.measure.rounding import SHARE, Rounding, _chosen


@dataclass
class Runs:
    """Errors of computations that add up as independent ones do, times ``more`` when several are rounded."""

    effects: Mapping[str, float]
    more: float = 1.0
    measured: list[frozenset[str]] = field(default_factory=list)

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        return {name: [f"{name}1", f"{name}2"] for name in self.effects}

    def errors(self, choices: Sequence[Collection[str]], inputs: Sequence[Any]) -> list[float]:
        self.measured += [frozenset(choice) for choice in choices]
        return [hypot(*(self.effects[g] for g in c)) * (self.more if len(c) > 1 else 1.0) for c in choices]


def chosen(runs: Runs, limit: float) -> Rounding:
    return _chosen(runs, [{}], SHARE * limit)  # type: ignore[arg-type]


def test_all_are_rounded_when_the_limit_allows() -> None:
    runs = Runs({"a": 1e-3, "b": 2e-3})
    found = chosen(runs, 1e-2)
    assert found.exact == frozenset() and found.kept == () and found.effects == {}
    assert found.error == found.every == hypot(1e-3, 2e-3)
    assert len(runs.measured) == 1


def test_the_largest_effects_stay_float32_until_the_rest_fits() -> None:
    runs = Runs({"a": 1e-3, "b": 9e-3, "c": 2e-3, "d": 5e-2})
    found = chosen(runs, 1e-2)
    assert found.exact == {"b", "d"}
    assert found.kept == ("b1", "b2", "d1", "d2")
    assert found.error == hypot(1e-3, 2e-3) <= found.allowed < found.every
    assert found.effects["d2"] == 5e-2
    assert runs.measured[-1] == {"a", "c"}


def test_a_choice_that_adds_up_to_more_than_expected_is_made_smaller() -> None:
    runs = Runs({"a": 4e-3, "b": 5e-3, "c": 1e-3}, more=3.0)
    found = chosen(runs, 1e-2)
    assert found.exact == {"a", "b"} and found.error == 1e-3
    assert found.error <= found.allowed


@pytest.mark.parametrize("effects", [{"a": 1.0, "b": 2.0}, {"a": nan, "b": nan}, {"a": nan, "b": 1.0}])
def test_nothing_is_rounded_when_nothing_fits(effects: dict[str, float]) -> None:
    found = chosen(Runs(effects), 1e-3)
    assert found.exact == effects.keys() and found.error == 0.0
    assert found.every > found.allowed or isnan(found.every)


def test_a_computation_that_spoils_everything_does_not_stop_the_others() -> None:
    found = chosen(Runs({"a": nan, "b": 1e-4}), 1e-2)
    assert found.exact == {"a"} and found.error == 1e-4
