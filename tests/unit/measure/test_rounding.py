"""Which layers may have rounded weights: the largest effects go first, and no choice is trusted unmeasured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot, isnan, nan
from typing import Any

import pytest

from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.measure.rounding import SHARE, Choice, Rounding, _images, _weights, grouped


@dataclass
class Runs:
    """Errors of computations that add up as independent ones do, times ``more`` when several are rounded."""

    effects: Mapping[str, float]
    more: float = 1.0
    measured: list[frozenset[str]] = field(default_factory=list)

    @property
    def weighty(self) -> Mapping[str, Sequence[str]]:
        return {name: [f"{name}1", f"{name}2"] for name in self.effects}

    def errors(self, choices: Sequence[Choice], inputs: Sequence[Any]) -> list[float]:
        rounding = [frozenset((*weights, *reading)) for weights, reading in choices]
        self.measured += rounding
        return [hypot(*(self.effects[g] for g in c)) * (self.more if len(c) > 1 else 1.0) for c in rounding]


def chosen(runs: Runs, limit: float) -> Rounding:
    return _weights(runs, [{}], SHARE * limit)  # type: ignore[arg-type]


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


def branched() -> Graph:
    """Two convolutions, the second read by an Add, whose other operand a depthwise convolution makes."""
    names = ("x", "a", "b", "c", "s", "y")
    return Graph(
        ("x",), ("y",),
        (
            Layer("A", "Conv", ("x", "w"), ("a",)), Layer("B", "Conv", ("a", "v"), ("b",)),
            Layer("C", "Conv", ("a", "d"), ("c",), freeze_attrs({"group": 4})),
            Layer("S", "Add", ("b", "c"), ("s",)), Layer("Y", "Relu", ("s",), ("y",)),
        ),
        {n: Tensor(n, (1, 4, 8, 8)) for n in names},
        {"w": Constant("w", (4, 4, 1, 1)), "v": Constant("v", (4, 4, 1, 1)), "d": Constant("d", (4, 1, 1, 1))},
        opset=20,
    )  # fmt: skip


@dataclass
class GraphRuns(Runs):
    """The same about a Graph, with effects by layer."""

    graph: Graph = field(default_factory=branched)

    def __post_init__(self) -> None:
        groups = {layer: group for group, layers in grouped(self.graph, self.effects).items() for layer in layers}
        self.effects = {groups[layer]: effect for layer, effect in self.effects.items()}

    @property
    def weighty(self) -> Mapping[str, Sequence[str]]:
        return grouped(self.graph, {"A", "B"})


def stored(limit: float, **effects: float) -> Rounding:
    runs = GraphRuns({"A": 1e-3, **effects})
    return _images(runs, [{}], _weights(runs, [{}], SHARE * limit))  # type: ignore[arg-type]


def test_images_are_stored_rounded_where_the_limit_leaves_room_for_all_that_read_them() -> None:
    free = stored(1e-1, C=2e-3, S=3e-3)
    assert free.narrow == {"a", "b", "c"} and free.images == 5
    assert free.error == hypot(1e-3, 2e-3, 3e-3) > free.every
    tight = stored(2.6e-3, C=2e-3, S=3e-3)
    assert tight.narrow == {"a"} and tight.error == hypot(1e-3, 2e-3) <= tight.allowed
    none = stored(1.2e-3, C=2e-3, S=3e-3)
    assert none.narrow == frozenset() and none.error == none.every == 1e-3
    assert none.to_json()["images"] == 5 and free.to_json()["stored_bf16"] == 3


def test_an_image_stays_float32_while_one_of_its_readers_has_to_be_exact() -> None:
    found = stored(1e-4, C=1e-6, S=1e-6)
    assert found.kept == ("A", "B") and found.narrow == {"b", "c"}
