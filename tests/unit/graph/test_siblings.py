"""merge-siblings: which convolutions become one, how they lie in it, and that results stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from graph_models import check, cleaned, model, node, ops, rand
from onnx import ModelProto

from tuner.graph.ir import Graph
from tuner.plan.slices import cut_of

X = {"x": [1, 8, 6, 6]}


def conv(out: str, weights: str, *bias: str, source: str = "x", **attrs: Any) -> onnx.NodeProto:
    return node("Conv", [source, weights, *bias], out, **attrs)


def inception(widths: Sequence[int] = (32, 24, 16), relu: str = "Relu") -> ModelProto:
    """A module of GoogLeNet in small: 1x1 convolutions of one tensor, 3x3 behind two of them, a pooling, all joined."""
    weights: dict[str, Any] = {f"w{k}": rand(c, 8, 1, 1, seed=k) for k, c in enumerate(widths)}
    weights |= {"b0": rand(widths[0], seed=7), "v1": rand(16, widths[1], 3, 3), "v2": rand(16, widths[2], 3, 3),
                "w3": rand(16, 8, 1, 1, seed=9)}  # fmt: skip
    nodes = [
        conv("c0", "w0", "b0"), node("Relu", ["c0"], "r0"), conv("c1", "w1"), node(relu, ["c1"], "r1"),
        conv("d1", "v1", source="r1", pads=[1, 1, 1, 1]), conv("c2", "w2"), node("Relu", ["c2"], "r2"),
        conv("d2", "v2", source="r2", pads=[1, 1, 1, 1]),
        node("MaxPool", ["x"], "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), conv("d3", "w3", source="p"),
        node("Concat", ["r0", "d1", "d2", "d3"], "j", axis=1), node("Relu", ["j"], "y"),
    ]  # fmt: skip
    return model(nodes, X, ["y"], weights)


def slices(graph: Graph) -> dict[str, tuple[int, int]]:
    """Result -> channels that it is cut from, to."""
    cuts = {x.outputs[0]: cut_of(graph, x) for x in graph.layers if x.op == "Slice"}
    return {name: (cut.start, cut.stop) for name, cut in cuts.items() if cut is not None}


def test_a_module_merges_and_what_its_concatenation_begins_with_lies_last() -> None:
    graph = check(inception(), all_passes=True, rtol=1e-4)
    assert ops(graph) == {"Conv": 4, "Relu": 2, "Slice": 3, "MaxPool": 1, "Concat": 1}
    assert slices(graph) == {"r1": (0, 24), "r2": (32, 48), "r0": (48, 80)}  # 8 channels of zeros behind r1
    (wide,) = (x for x in graph.layers if x.op == "Conv" and x.inputs[0] == "x")
    assert graph.constants[wide.inputs[1]].shape == (80, 8, 1, 1)
    assert graph.layers[0] is wide


def test_zeros_fill_up_to_blocks_and_are_cut_off() -> None:
    graph, weights = cleaned(inception())
    (wide,) = (x for x in graph.layers if x.op == "Conv" and x.inputs[0] == "x")
    filling = weights[wide.inputs[1]][24:32]
    assert filling.shape[0] == 8
    assert not filling.any()
    assert weights[wide.inputs[2]].shape == (80,)


def test_disabled_it_leaves_all_as_it_is() -> None:
    assert ops(cleaned(inception(), disabled=["merge-siblings"])[0])["Conv"] == 6


def test_other_activations_and_too_many_zeros_stay_out() -> None:
    assert slices(check(inception(relu="Sigmoid"), all_passes=True, rtol=1e-4)).keys() == {"r0", "r2"}
    assert not slices(check(inception((17, 1, 1)), all_passes=True, rtol=1e-4))


W = {"w": rand(16, 8, 1, 1), "v": rand(16, 8, 1, 1, seed=1)}
BOTH = [conv("a", "w"), conv("b", "v")]
JOINED = node("Concat", ["a", "b"], "y", axis=1)


@pytest.mark.parametrize(
    ("nodes", "outputs", "changes", "merged"),
    [
        ([*BOTH, JOINED], ["y"], {}, True),
        ([*BOTH, JOINED], ["y", "a"], {}, False),
        ([*BOTH, node("Add", ["a", "b"], "y")], ["y"], {}, False),
        ([conv("a", "w"), conv("b", "v", strides=[2, 2]), node("Flatten", ["a"], "f"), node("Flatten", ["b"], "g"),
          node("Concat", ["f", "g"], "y", axis=1)], ["y"], {}, False),
        ([*BOTH, JOINED], ["y"], {"x": [2, 8, 6, 6]}, False),
        ([*BOTH, JOINED], ["y"], {"x": [1, 8, 21, 21]}, False),
        ([conv("a", "w"), conv("b", "z"), JOINED], ["y"], {}, False),
        ([conv("a", "w", group=2), conv("b", "v", group=2), JOINED], ["y"], {"w": (16, 4), "v": (16, 4)}, False),
    ],
    ids=["alike", "a result", "summed", "strides", "two images", "large", "weights computed", "groups"],
)  # fmt: skip
def test_what_is_merged(nodes: list[Any], outputs: list[str], changes: dict[str, Any], merged: bool) -> None:
    weights = {n: rand(*changes[n], 1, 1) if n in changes else w for n, w in W.items()}
    inputs = {"x": changes.get("x", X["x"])}
    if any("z" in x.input for x in nodes):
        inputs["z"] = [16, 8, 1, 1]
    graph = check(model(nodes, inputs, outputs, weights), "merge-siblings")
    assert ops(graph)["Conv"] == (1 if merged else 2)


def test_old_models_whose_slices_would_be_others_stay_as_they_are() -> None:
    proto = model([*BOTH, JOINED], X, ["y"], W, opset=9)
    assert ops(check(proto, "merge-siblings"))["Conv"] == 2
    assert ops(check(proto, "upgrade-opset", "merge-siblings"))["Conv"] == 1


def test_merged_once_it_stays() -> None:
    """The next round finds nothing more to merge, and weights alike are no reason to slice twice."""
    nodes = [conv("a", "w"), conv("b", "w"), conv("c", "v"), node("Concat", ["a", "b", "c"], "y", axis=1)]
    graph = check(model(nodes, X, ["y"], W), all_passes=True)
    assert ops(graph) == {"Conv": 1, "Slice": 2, "Concat": 1}
    np.testing.assert_array_equal(sorted(slices(graph).values()), [(0, 16), (16, 32)])
