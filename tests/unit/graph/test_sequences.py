"""sequences-to-images: windows over sequences become windows over images of one row, and results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import check, model, node, ops, rand

PASS = "sequences-to-images"
X = {"x": [2, 6, 20]}
WEIGHTS: dict[str, Any] = {
    "w": rand(8, 6, 3), "v": rand(8, 8, 3, seed=1), "b": rand(8, seed=2), "d": rand(8, 1, 5, seed=3),
    "s": rand(8, 1, seed=4), "t": rand(1, 8, 1, seed=5), "row": rand(20, seed=6), "u": rand(8, 4, 4, seed=7),
    "low": np.float32(-0.5),
}  # fmt: skip


@pytest.mark.parametrize(
    "layer",
    [
        node("Conv", ["x", "w", "b"], "y", strides=[2], pads=[2, 1], dilations=[2]),
        node("Conv", ["x", "w"], "y", auto_pad="SAME_LOWER", kernel_shape=[3], strides=[3]),
        node("ConvTranspose", ["x", "w0", "b4"], "y", strides=[3], pads=[1, 2], output_padding=[1]),
        node("ConvTranspose", ["x", "w0"], "y", strides=[2], output_shape=[41]),
    ],
    ids=["Conv", "Conv, padding of its own", "ConvTranspose", "ConvTranspose to a size"],
)
def test_a_window(layer: Any) -> None:
    weights = {**WEIGHTS, "w0": rand(6, 4, 5), "b4": rand(4)}
    graph = check(model([layer], X, ["y"], {n: weights[n] for n in layer.input if n in weights}), PASS)
    assert [x.op for x in graph.layers] == ["Reshape", layer.op_type, "Reshape"]
    assert len(graph.tensors[graph.layers[1].outputs[0]].shape) == 4


@pytest.mark.parametrize(
    "pool",
    [
        node("MaxPool", ["r"], "y", kernel_shape=[3], strides=[2], ceil_mode=1),
        node("AveragePool", ["r"], "y", kernel_shape=[4], pads=[1, 2], count_include_pad=1),
        node("GlobalAveragePool", ["r"], "y"),
        node("GlobalMaxPool", ["r"], "y"),
    ],
    ids=["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"],
)
def test_pooling_behind_a_convolution_and_none_by_itself(pool: Any) -> None:
    nodes = [node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "r"), pool]
    graph = check(model(nodes, X, ["y"], {"w": WEIGHTS["w"]}), PASS, "merge-reshapes", "eliminate-nop")
    assert [x.op for x in graph.layers] == ["Reshape", "Conv", "Relu", pool.op_type, "Reshape"]
    alone = check(model([node("Relu", ["x"], "r"), pool], X, ["y"], {}), PASS)
    assert [x.op for x in alone.layers] == ["Relu", pool.op_type]


def test_layers_between_two_windows_become_images_too() -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], "c", pads=[1, 1]), node("Mul", ["c", "s"], "m"), node("Add", ["t", "m"], "a"),
        node("Clip", ["a", "low"], "r"), node("Conv", ["r", "v"], "e", pads=[1, 1]), node("Add", ["e", "r"], "f"),
        node("Mul", ["f", "row"], "g"), node("Conv", ["g", "d"], "h", group=8), node("Relu", ["h"], "y"),
    ]  # fmt: skip
    names = {name for x in nodes for name in x.input} & WEIGHTS.keys()
    graph = check(
        model(nodes, X, ["y"], {n: WEIGHTS[n] for n in names}),
        PASS,
        "merge-reshapes",
        "eliminate-nop",
        "eliminate-dead",
    )
    assert [x.op for x in graph.layers] == [
        "Reshape", "Conv", "Mul", "Add", "Clip", "Conv", "Add", "Mul", "Conv", "Relu", "Reshape"
    ]  # fmt: skip


def test_channels_that_are_put_side_by_side_are_channels_of_images() -> None:
    nodes = [
        node("Conv", ["x", "w"], "c", pads=[1, 1]), node("Conv", ["x", "w"], "d", pads=[2, 2], dilations=[2]),
        node("Concat", ["c", "d", "x"], "e", axis=-2), node("Relu", ["e"], "y"),
    ]  # fmt: skip
    graph = check(
        model(nodes, X, ["y"], {"w": WEIGHTS["w"]}), PASS, "merge-reshapes", "eliminate-nop", "eliminate-dead"
    )
    assert [x.op for x in graph.layers] == ["Reshape", "Conv", "Conv", "Concat", "Relu", "Reshape"]
    along = node("Concat", ["c", "d"], "y", axis=2)
    assert len(check(model([*nodes[:2], along], X, ["y"], {"w": WEIGHTS["w"]}), PASS).tensors["y"].shape) == 3


def test_all_passes_leave_two_reshapes_and_no_transposed_convolution() -> None:
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("Relu", ["c"], "r"),
        node("ConvTranspose", ["r", "u"], "y", strides=[2]),
    ]
    graph = check(model(nodes, X, ["y"], {n: WEIGHTS[n] for n in "wu"}), all_passes=True)
    assert ops(graph)["Conv"] == 2 and "ConvTranspose" not in ops(graph)


def test_what_is_no_window_stays() -> None:
    nodes = [node("Relu", ["x"], "r"), node("Softmax", ["r"], "y", axis=2)]
    assert ops(check(model(nodes, X, ["y"], {}), PASS)) == {"Relu": 1, "Softmax": 1}


def test_a_convolution_with_computed_weights_stays() -> None:
    nodes = [node("Relu", ["z"], "w"), node("Conv", ["x", "w"], "y")]
    assert ops(check(model(nodes, {**X, "z": [8, 6, 3]}, ["y"], {}), PASS)) == {"Relu": 1, "Conv": 1}
