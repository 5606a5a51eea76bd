"""volumes-to-images: windows over volumes become windows over images, and results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import check, cleaned, model, node, ops, rand

PASS = "volumes-to-images"
CLEAN = (PASS, "merge-reshapes", "eliminate-nop", "eliminate-dead")
X = {"x": [2, 6, 7, 9, 8]}
WEIGHTS: dict[str, Any] = {
    "w": rand(8, 6, 3, 3, 3), "b": rand(8, seed=1), "v": rand(8, 8, 3, 1, 1, seed=2), "d": rand(6, 1, 3, 3, 3, seed=3),
    "g": rand(8, 3, 2, 3, 2, seed=4), "flat": rand(8, 6, 1, 3, 3, seed=5), "s": rand(8, 1, 1, 1, seed=6),
    "t": rand(1, 8, 1, 1, 1, seed=7), "row": rand(8, seed=8), "deep": rand(7, 1, 1, seed=9), "low": np.float32(-0.5),
    "u": rand(6, 4, 2, 2, 2, seed=10), "u3": rand(6, 4, 3, 3, 3, seed=11), "b4": rand(4, seed=12),
    "dw": rand(6, 1, 2, 2, 2, seed=13), "b6": rand(6, seed=14),
}  # fmt: skip


def of(nodes: Any, inputs: Any = X, outputs: Any = ("y",)) -> Any:
    names = {name for x in nodes for name in x.input} & WEIGHTS.keys()
    return model(nodes, inputs, list(outputs), {name: WEIGHTS[name] for name in sorted(names)})


@pytest.mark.parametrize(
    "layer",
    [
        node("Conv", ["x", "w", "b"], "y", pads=[1] * 6),
        node("Conv", ["x", "w"], "y"),
        node("Conv", ["x", "w", "b"], "y", strides=[2, 1, 2], pads=[2, 0, 1, 1, 2, 0], dilations=[2, 1, 2]),
        node("Conv", ["x", "w"], "y", auto_pad="SAME_UPPER", strides=[2, 2, 2]),
        node("Conv", ["x", "w"], "y", auto_pad="SAME_LOWER", strides=[2, 1, 3]),
        node("Conv", ["x", "w"], "y", auto_pad="VALID", strides=[3, 1, 1]),
        node("Conv", ["x", "flat", "b"], "y", pads=[0, 1, 1, 0, 1, 1]),
        node("Conv", ["x", "flat"], "y", strides=[2, 1, 1], pads=[1, 0, 0, 1, 0, 0]),
        node("Conv", ["x", "d", "b6"], "y", group=6, pads=[1] * 6),
        node("Conv", ["x", "g", "b"], "y", group=2, strides=[1, 2, 1]),
        node("ConvTranspose", ["x", "u", "b4"], "y", strides=[2, 2, 2]),
        node("ConvTranspose", ["x", "u"], "y", strides=[2, 3, 1], pads=[0, 1, 0, 0, 0, 1], output_padding=[0, 1, 0]),
    ],
    ids=lambda layer: f"{layer.op_type} {' '.join(layer.input[1:])} " + " ".join(a.name for a in layer.attribute),
)
def test_a_window(layer: Any) -> None:
    graph = check(of([layer]), *CLEAN)
    windows = [x for x in graph.layers if x.op == layer.op_type]
    assert windows and all(len(graph.tensors[x.outputs[0]].shape) == 4 for x in windows)


def test_a_deep_window_of_one_group_is_one_convolution_and_a_flat_one_copies_nothing() -> None:
    deep = check(of([node("Conv", ["x", "w"], "y", pads=[1] * 6)]), *CLEAN)
    assert ops(deep) == {"Transpose": 2, "Reshape": 2, "Concat": 2, "Slice": 3, "Conv": 1}
    flat = check(of([node("Conv", ["x", "flat"], "y")]), *CLEAN)
    assert ops(flat) == {"Transpose": 2, "Reshape": 2, "Conv": 1}


@pytest.mark.parametrize(
    "pool",
    [
        node("MaxPool", ["r"], "y", kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        node("MaxPool", ["r"], "y", kernel_shape=[3, 3, 3], strides=[2, 2, 2], pads=[1] * 6, ceil_mode=1),
        node("MaxPool", ["r"], "y", kernel_shape=[2, 2, 2], dilations=[2, 1, 3], auto_pad="VALID"),
        node("MaxPool", ["r"], "y", kernel_shape=[1, 2, 2], strides=[1, 2, 2]),
        node("AveragePool", ["r"], "y", kernel_shape=[3, 2, 3], strides=[2, 1, 2], pads=[1, 0, 1, 1, 1, 0]),
        node("AveragePool", ["r"], "y", kernel_shape=[3, 2, 3], pads=[1, 0, 1, 0, 1, 1], count_include_pad=1),
        node("AveragePool", ["r"], "y", kernel_shape=[2, 2, 2], strides=[2, 2, 2], auto_pad="SAME_UPPER"),
        node("GlobalAveragePool", ["r"], "y"),
        node("GlobalMaxPool", ["r"], "y"),
    ],
    ids=lambda layer: f"{layer.op_type} " + " ".join(a.name for a in layer.attribute),
)
def test_pooling_behind_a_convolution_and_none_by_itself(pool: Any) -> None:
    behind = [node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "r"), pool]
    graph = check(of(behind), *CLEAN)
    pools = [x for x in graph.layers if "Pool" in x.op]
    assert pools and all(len(graph.tensors[x.outputs[0]].shape) == 4 for x in pools)
    assert "Transpose" not in [x.op for x in graph.layers[2:-1]], "between convolution and pooling lies no Transpose"
    assert ops(check(of([node("Relu", ["x"], "r"), pool]), PASS)) == {"Relu": 1, pool.op_type: 1}


def test_layers_between_two_windows_become_images_too() -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], "c", pads=[1] * 6), node("Mul", ["c", "s"], "m"), node("Add", ["t", "m"], "a"),
        node("Clip", ["a", "low"], "r"), node("Conv", ["r", "v"], "e", pads=[1, 0, 0, 1, 0, 0]),
        node("Add", ["e", "r"], "f"), node("Mul", ["f", "row"], "h"), node("Concat", ["h", "c"], "k", axis=1),
        node("Relu", ["k"], "y"),
    ]  # fmt: skip
    graph = check(of(nodes), *CLEAN)
    assert ops(graph)["Transpose"] == 2, "one in front and one behind"
    kinds = [len(graph.tensors[x.outputs[0]].shape) for x in graph.layers if x.op not in ("Reshape", "Transpose")]
    assert set(kinds) == {4}


def test_one_channel_or_one_image_needs_no_transpose() -> None:
    weights = {"w": rand(1, 1, 3, 3, 3)}
    proto = model([node("Conv", ["x", "w"], "y", pads=[1] * 6)], {"x": [1, 1, 5, 6, 7]}, ["y"], weights)
    assert "Transpose" not in ops(check(proto, *CLEAN))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Conv", ["x", "w"], "c", pads=[1] * 6), node("Mul", ["c", "deep"], "y")],
        [node("Conv", ["x", "w"], "c", pads=[1] * 6), node("Softmax", ["c"], "y", axis=1)],
        [node("Conv", ["x", "w"], "c", pads=[1] * 6), node("Concat", ["c", "c"], "y", axis=2)],
    ],
    ids=["a factor for each depth", "Softmax", "Concat of depths"],
)
def test_what_differs_between_depths_or_is_unknown_stays(nodes: Any) -> None:
    graph = check(of(nodes), *CLEAN)
    assert graph.layers[-1].op == nodes[-1].op_type and len(graph.tensors[graph.layers[-1].outputs[0]].shape) == 5


def test_windows_that_overlap_when_transposed_and_computed_weights_stay() -> None:
    overlapping = [node("ConvTranspose", ["x", "u3"], "y", strides=[2, 2, 2])]
    assert ops(check(of(overlapping), PASS)) == {"ConvTranspose": 1}
    computed = [node("Relu", ["z"], "w0"), node("Conv", ["x", "w0"], "y")]
    assert ops(check(of(computed, {**X, "z": [8, 6, 3, 3, 3]}), PASS)) == {"Relu": 1, "Conv": 1}


def test_images_that_would_outgrow_the_limit_are_not_put_side_by_side() -> None:
    """64 MiB is the limit of these tests; the volume has 4 MB, its images side by side 21 times that."""
    proto = model([node("Conv", ["x", "w"], "y")], {"x": [1, 1, 100, 100, 100]}, ["y"], {"w": rand(1, 1, 30, 3, 3)})
    graph, _ = cleaned(proto)
    assert ops(graph) == {"Conv": 1}
