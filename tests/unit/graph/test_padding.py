"""fold-padding: which zeros go into a convolution, and that results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import check, model, node, ops, rand

PASS = "fold-padding"
X = {"x": [1, 4, 6, 5]}


def padded(
    zeros: list[int], *more: Any, constants: dict[str, Any] | None = None, mode: str = "constant", **attrs: Any
) -> Any:
    """The graph left of Pad and a convolution, and of ``more`` nodes that read the padded image "p"."""
    inputs = ["x", "n", *(constants or {})]
    nodes = [node("Pad", inputs, "p", mode=mode), node("Conv", ["p", "w"], "y", **attrs), *more]
    weights = {"w": rand(3, 4, 3, 3), "n": np.array(zeros), **(constants or {})}
    outputs = ["y", *(x.output[0] for x in more)]
    proto = model(nodes, X, outputs, weights, opset=18 if "a" in weights else 17)
    return check(proto, PASS, "eliminate-dead")


def test_zeros_around_an_image_are_added_to_the_pads_there_are() -> None:
    graph = padded([0, 0, 1, 2, 0, 0, 3, 0], pads=[1, 0, 0, 1], strides=[2, 1])
    assert [x.op for x in graph.layers] == ["Conv"] and graph.layers[0].attr("pads") == (2, 2, 3, 1)
    assert padded([0, 0, 1, 1, 0, 0, 1, 1], auto_pad="VALID").layers[0].attr("pads") == (1, 1, 1, 1)
    given = {"v": np.float32(0), "a": np.array([-1, 2])}
    assert padded([2, 1, 0, 1], constants=given).layers[0].attr("pads") == (1, 2, 1, 0)


def test_another_reader_keeps_the_padded_image() -> None:
    graph = padded([0, 0, 1, 1, 0, 0, 1, 1], node("MaxPool", ["p"], "z", kernel_shape=[2, 2]))
    assert ops(graph) == {"Pad": 1, "Conv": 1, "MaxPool": 1}
    assert next(x for x in graph.layers if x.op == "Conv").inputs[0] == "x"


@pytest.mark.parametrize(
    ("pads", "more"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], {"mode": "reflect"}),
        ([0, 0, 1, 1, 0, 0, 1, 1], {"constants": {"v": np.float32(1)}}),
        ([0, 0, -1, 0, 0, 0, 0, 0], {}),
        ([0, 0, 1, 1, 0, 0, 1, 1], {"auto_pad": "SAME_UPPER"}),
        ([1, 0, 0, 0, 0, 0, 0, 0], {}),
    ],
    ids=["reflected", "ones", "cut off", "convolution pads as it needs", "images"],
)
def test_what_is_no_border_of_zeros_stays(pads: list[int], more: dict[str, Any]) -> None:
    assert ops(padded(pads, **more)) == {"Pad": 1, "Conv": 1}
