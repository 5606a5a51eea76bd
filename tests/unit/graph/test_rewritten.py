"""pow-to-mul, split-to-slices and space-to-depth-to-slices: what they leave, and that results stay."""

from __future__ import annotations

import numpy as np
import pytest
from graph_models import check, model, node, ops

X = {"x": [2, 6, 5]}


@pytest.mark.parametrize(
    ("power", "left"),
    [(2.0, {"Mul": 1}), (3.0, {"Mul": 2}), (0.5, {"Sqrt": 1}), (-1.0, {"Reciprocal": 1}), (2.5, {"Pow": 1})],
)
def test_small_powers(power: float, left: dict[str, int]) -> None:
    nodes = [node("Abs", ["x"], "a"), node("Add", ["a", "one"], "b"), node("Pow", ["b", "p"], "y")]
    constants = {"p": np.float32(power), "one": np.float32(1)}
    assert ops(check(model(nodes, X, ["y"], constants), "pow-to-mul", rtol=1e-5)) == {"Abs": 1, "Add": 1, **left}


def test_a_power_that_widens_the_result_stays() -> None:
    proto = model([node("Pow", ["x", "p"], "y")], X, ["y"], {"p": np.full((3, 1, 1, 1), 2, np.float32)})
    assert ops(check(proto, "pow-to-mul")) == {"Pow": 1}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pixels_become_channels(size: int) -> None:
    nodes = [node("SpaceToDepth", ["x"], "y", blocksize=size)]
    graph = check(model(nodes, {"x": [2, 3, 8, 12]}, ["y"]), "space-to-depth-to-slices")
    assert ops(graph) == {"Slice": size**2, "Concat": 1}


def test_parts_become_slices_and_unread_ones_nothing() -> None:
    nodes = [node("Split", ["x", "s"], ["a", "b", "c"], axis=-2), node("Add", ["a", "c"], "y")]
    graph = check(model(nodes, X, ["y"], {"s": np.array([2, 2, 2])}), "split-to-slices")
    assert ops(graph) == {"Slice": 2, "Add": 1}
    halves = model([node("Split", ["x"], ["a", "b"], axis=1)], X, ["b", "a"])
    assert ops(check(halves, "split-to-slices")) == {"Slice": 2}
