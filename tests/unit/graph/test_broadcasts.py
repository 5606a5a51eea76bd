"""where-to-min-max and bypass-expand: what they leave, and that results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import check, cleaned, model, node, ops, rand, run

from tuner.graph.onnx_io import to_onnx

X = {"x": [2, 3, 5]}
CAUSAL = np.tril(np.ones((3, 5), bool), 1)
LOW = np.float32(-3.4e38)


@pytest.mark.parametrize(
    ("inputs", "constants"),
    [
        (("m", "x", "c"), {"m": CAUSAL, "c": LOW}),
        (("m", "c", "x"), {"m": ~CAUSAL, "c": np.float32(-np.inf)}),
        (("m", "x", "c"), {"m": CAUSAL[None, :1], "c": rand(3, 1)}),
        (("m", "c", "x"), {"m": np.array(True), "c": rand(2, 1, 5)}),
    ],
    ids=["a number", "minus infinity, the other way round", "numbers along rows", "everywhere"],
)
def test_a_constant_mask(inputs: tuple[str, ...], constants: dict[str, Any]) -> None:
    graph = check(model([node("Where", inputs, "y")], X, ["y"], constants), "where-to-min-max")
    assert ops(graph) == {"Min": 1, "Max": 1}


def test_a_mask_that_widens_the_result() -> None:
    nodes = [node("Where", ["m", "x", "c"], "y")]
    constants = {"m": rand(4, 1, 1, 1) > 0, "c": LOW}
    assert ops(check(model(nodes, X, ["y"], constants), "where-to-min-max")) == {"Min": 1, "Max": 1}


def test_infinite_numbers_pass_and_do_not_get_through_the_mask() -> None:
    proto = model([node("Where", ["m", "x", "c"], "y")], X, ["y"], {"m": CAUSAL, "c": np.float32(7)})
    given = rand(2, 3, 5)
    given[:, 1] = [np.inf, -np.inf, np.inf, -np.inf, np.inf]
    graph, weights = cleaned(proto)
    (ours,), (theirs,) = (run(p, {"x": given}) for p in (to_onnx(graph, weights), proto))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("layer", "constants"),
    [
        (node("Where", ["m", "x", "z"], "y"), {"m": CAUSAL}),
        (node("Where", ["b", "x", "c"], "y"), {"c": LOW}),
    ],
    ids=["between two tensors", "by a computed mask"],
)
def test_other_choices_stay(layer: Any, constants: dict[str, Any]) -> None:
    nodes = [node("Greater", ["x", "z"], "b"), layer] if "b" in layer.input else [layer]
    assert ops(check(model(nodes, {**X, "z": [3, 5]}, ["y"], constants), "where-to-min-max"))["Where"] == 1


def test_what_broadcasts_anyway_reads_in_front_of_an_expand() -> None:
    nodes = [node("Expand", ["s", "to"], "e"), node("Mul", ["x", "e"], "p"), node("Add", ["e", "x"], "y")]
    proto = model(nodes, {**X, "s": [2, 1, 1]}, ["p", "y"], {"to": [2, 3, 5]})
    assert ops(check(proto, "bypass-expand", "eliminate-dead")) == {"Mul": 1, "Add": 1}


def test_an_expand_stays_where_it_makes_the_size_or_others_read_it() -> None:
    twice = [node("Expand", ["s", "to"], "e"), node("Add", ["e", "e"], "y")]
    assert ops(check(model(twice, {"s": [2, 1]}, ["y"], {"to": [2, 4]}), "bypass-expand")) == {"Expand": 1, "Add": 1}
    both = [node("Expand", ["s", "to"], "e"), node("Mul", ["x", "e"], "p"), node("Softmax", ["e"], "y", axis=-1)]
    proto = model(both, {**X, "s": [2, 1, 1]}, ["p", "y"], {"to": [2, 3, 5]})
    graph = check(proto, "bypass-expand", "eliminate-dead")
    assert next(x for x in graph.layers if x.op == "Mul").inputs == ("x", "s")
    assert ops(graph) == {"Expand": 1, "Mul": 1, "Softmax": 1}
