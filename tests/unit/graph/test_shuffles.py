"""sink-shuffles: what a channel shuffle moves behind, what keeps it, and that results stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from graph_models import check, cleaned, model, node, ops, rand

X = {"x": [1, 12, 7, 6]}
SHUFFLE = ("Reshape", "Transpose", "Reshape")
SPLIT, JOINED = np.array([1, 3, 4, 7, 6]), np.array([1, 12, 7, 6])
WEIGHTS: dict[str, Any] = {
    "split": SPLIT, "joined": JOINED, "d": rand(12, 1, 3, 3), "b": rand(12, seed=1), "w": rand(9, 4, 1, 1, seed=2),
    "double": rand(24, 1, 3, 3, seed=3),
}  # fmt: skip


def shuffle(perm: Sequence[int] = (0, 2, 1, 3, 4)) -> list[onnx.NodeProto]:
    return [
        node("Reshape", ["x", "split"], "s0"), node("Transpose", ["s0"], "s1", perm=perm),
        node("Reshape", ["s1", "joined"], "s"),
    ]  # fmt: skip


def depthwise(out: str = "e", source: str = "s", **attrs: Any) -> onnx.NodeProto:
    return node("Conv", [source, "d", "b"], out, group=12, pads=[1, 1, 1, 1], **attrs)


def mixing(source: str) -> onnx.NodeProto:
    return node("Conv", [source, "w"], "y", group=3)


def order(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",)) -> tuple[str, ...]:
    """Operators of the cleaned model, in running order; results are compared with the original's."""
    graph = check(model(nodes, X, outputs, WEIGHTS), "sink-shuffles", rtol=1e-5)
    return tuple(layer.op for layer in graph.layers)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_shuffle_moves_behind_a_depthwise_convolution(stride: int) -> None:
    nodes = [*shuffle(), depthwise(strides=[stride, stride]), mixing("e")]
    assert order(nodes) == ("Conv", *SHUFFLE, "Conv")


def test_it_moves_behind_several_and_activations_in_between_and_after() -> None:
    nodes = [
        *shuffle(), node("Relu", ["s"], "a"), depthwise("e0", "a"), node("LeakyRelu", ["e0"], "e1"),
        depthwise("e", "e1"), node("Clip", ["e", "", "six"], "c"), mixing("c"),
    ]  # fmt: skip
    found = check(model(nodes, X, ["y"], {**WEIGHTS, "six": np.float32(6)}), "sink-shuffles", rtol=1e-5)
    assert [x.op for x in found.layers] == ["Relu", "Conv", "LeakyRelu", "Conv", "Clip", *SHUFFLE, "Conv"]


def test_a_shuffled_result_keeps_its_name() -> None:
    assert order([*shuffle(), depthwise("y")]) == ("Conv", *SHUFFLE)


def test_what_is_in_the_shuffles_way_keeps_it() -> None:
    stays = (*SHUFFLE, "Conv", "Conv")
    assert order([*shuffle(), depthwise(), mixing("e")], ("y", "s")) == stays  # somebody wants the shuffled image
    assert order([*shuffle(), depthwise(), mixing("e")], ("y", "s1")) == stays
    assert order([*shuffle((0, 1, 2, 3, 4)), depthwise(), mixing("e")])[-2:] == ("Conv", "Conv")  # it shuffles nothing
    assert order([*shuffle(), node("Relu", ["s"], "e"), mixing("e")]) == (*SHUFFLE, "Relu", "Conv")  # nothing depthwise
    twice = [*shuffle(), depthwise(), node("Relu", ["s"], "r"), node("Add", ["e", "r"], "m"), mixing("m")]
    assert order(twice)[:3] == SHUFFLE


def test_a_convolution_that_makes_several_channels_of_each_keeps_it() -> None:
    wide = node("Conv", ["s", "double"], "y", group=12)
    assert order([*shuffle(), wide]) == (*SHUFFLE, "Conv")


def test_weights_that_are_computed_keep_it() -> None:
    nodes = [*shuffle(), node("Conv", ["s", "v"], "y", group=12, pads=[1, 1, 1, 1])]
    proto = model(nodes, {**X, "v": [12, 1, 3, 3]}, ["y"], WEIGHTS)
    assert [x.op for x in check(proto, "sink-shuffles").layers] == [*SHUFFLE, "Conv"]


def test_filters_lie_in_the_order_of_the_channels() -> None:
    graph, weights = cleaned(model([*shuffle(), depthwise(), mixing("e")], X, ["y"], WEIGHTS))
    first = next(x for x in graph.layers if x.op == "Conv")
    # Channel 1 of the shuffled image is the first of the second group, which lies at 4.
    np.testing.assert_array_equal(weights[first.inputs[1]][4], WEIGHTS["d"][1])
    assert weights[first.inputs[2]][4] == WEIGHTS["b"][1]
    assert ops(graph)["Transpose"] == 1
