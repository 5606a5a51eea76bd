"""conv-transpose-to-conv: transposed convolutions of all geometries become convolutions, and results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import check, cleaned, model, node, ops, rand

from tuner.graph.load import Limits, import_model

PASS = "conv-transpose-to-conv"
# window, stride, pads, output_padding, size -> window and results of the convolution, along one axis
CASES: dict[str, tuple[int, int, tuple[int, int], int, int, tuple[int, int]]] = {
    "as large as the stride": (2, 2, (0, 0), 0, 5, (1, 5)),
    "twice as large": (4, 2, (1, 1), 0, 5, (2, 6)),  # one row more than there were, rather than a window of 3
    "odd, with one more": (3, 2, (1, 1), 1, 5, (2, 5)),
    "odd": (3, 2, (0, 0), 0, 4, (2, 5)),
    "of five": (5, 2, (2, 2), 1, 4, (3, 4)),
    "uneven padding": (5, 2, (3, 0), 0, 4, (3, 4)),
    "smaller than the stride": (2, 3, (0, 0), 0, 4, (1, 4)),
    "much padding": (4, 2, (3, 3), 0, 6, (2, 5)),
    "large stride": (8, 4, (2, 2), 0, 3, (2, 4)),
    "three": (7, 3, (2, 1), 2, 3, (3, 4)),
    "stride 1": (3, 1, (1, 1), 0, 6, (3, 6)),
    "stride 1, no padding": (4, 1, (0, 0), 0, 1, (4, 4)),
    "more padding than window": (2, 2, (3, 3), 0, 6, (4, 3)),  # mostly zeros: the image is read whole
}


def transposed(size: tuple[int, int] = (5, 4), *, weights: np.ndarray | None = None, bias: bool = True, **attrs: Any):  # type: ignore[no-untyped-def]
    """A model of one, with Relu behind it."""
    weights = rand(6, 5, 3, 3) if weights is None else weights
    channels = weights.shape[1] * attrs.get("group", 1)
    names = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [node("ConvTranspose", names, "c", **attrs), node("Relu", ["c"], "y")]
    return model(nodes, {"x": [2, weights.shape[0], *size]}, ["y"], {"w": weights, "b": rand(channels, seed=1)})


@pytest.mark.parametrize("name", CASES)
def test_all_geometries_along_either_axis(name: str) -> None:
    window, stride, (begin, end), more, size, (wanted, results) = CASES[name]
    for axis in range(2):
        other = (1, stride) if stride > 1 else (3, 1)  # the other axis: its window and stride

        def both(one: int, two: int, axis: int = axis) -> list[int]:
            return [one, two] if axis == 0 else [two, one]

        kernel = both(window, max(other[0], stride))
        proto = transposed(
            (size, 3) if axis == 0 else (3, size), weights=rand(6, 5, *kernel), kernel_shape=kernel,
            strides=[stride, stride], pads=[*both(begin, 0), *both(end, 0)], output_padding=both(more, 0),
        )  # fmt: skip
        graph = check(proto, PASS, rtol=1e-5)
        conv = graph.layers[0]
        assert conv.op == "Conv" and conv.attr("kernel_shape")[axis] == wanted
        assert graph.tensors[conv.outputs[0]].shape[2 + axis] == results
        assert ("DepthToSpace" in ops(graph)) == (stride > 1)
        whole = graph.tensors[conv.outputs[0]].shape[2 + axis] * stride
        assert ("Slice" in ops(graph)) == (whole != graph.tensors["y"].shape[2 + axis])


@pytest.mark.parametrize("seed", range(40))
def test_seeded_geometries(seed: int) -> None:
    rng = np.random.default_rng(seed)
    strides = [int(s) for s in rng.integers(1, 5, 2)]
    kernel = [int(k) for k in rng.integers(1, 8, 2)]
    size = tuple(int(n) for n in rng.integers(2, 8, 2))
    pads = [int(rng.integers(0, k)) for k in (*kernel, *kernel)]
    for axis in range(2):  # results are left
        while (size[axis] - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[axis + 2] < 1:
            pads[axis] = pads[axis + 2] = pads[axis] // 2 if pads[axis] == pads[axis + 2] else min(pads[axis::2])
    more = [int(rng.integers(0, s)) for s in strides]
    groups = int(rng.choice([1, 1, 4]))
    weights = rand(8, 1, *kernel) if groups > 1 else rand(8, 3, *kernel)
    proto = transposed(
        (size[0], size[1]), weights=weights, bias=bool(rng.integers(2)), group=groups, kernel_shape=kernel,
        strides=strides, pads=pads, output_padding=more,
    )  # fmt: skip
    assert "ConvTranspose" not in ops(check(proto, PASS, rtol=1e-5))


@pytest.mark.parametrize(
    "attrs",
    [
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID", "strides": [3, 3]}, {"output_shape": [9, 8], "strides": [2, 2]},
    ],
)  # fmt: skip
def test_padding_that_follows_from_the_result(attrs: dict[str, Any]) -> None:
    assert ops(check(transposed(kernel_shape=[3, 3], **attrs), PASS)).keys() >= {"Conv", "DepthToSpace"}


def test_each_channel_in_a_group_of_its_own() -> None:
    graph = check(transposed(weights=rand(6, 1, 4, 4), group=6, strides=[2, 2], pads=[1] * 4), PASS)
    conv, dealt = graph.layers[:2]
    assert conv.attr("group") == 6 and dealt.attr("mode") == "CRD"


@pytest.mark.parametrize(
    "attrs",
    [{"dilations": [2, 2]}, {"group": 2, "strides": [2, 2]}, {"strides": [65, 1]}],
    ids=["dilation", "groups of several channels", "stride beyond reason"],
)
def test_what_is_not_known_stays(attrs: dict[str, Any]) -> None:
    graph = check(transposed(**attrs), PASS)
    assert ops(graph) == {"ConvTranspose": 1, "Relu": 1}


def test_a_normalisation_behind_it_goes_into_the_weights_first() -> None:
    nodes = [
        node("ConvTranspose", ["x", "w"], "c", strides=[2, 2]), node("BatchNormalization", ["c", *"smtv"], "n"),
        node("Relu", ["n"], "y"),
    ]  # fmt: skip
    numbers = {k: np.abs(rand(5, seed=i)) + np.float32(0.5) for i, k in enumerate("smtv")}
    graph = check(model(nodes, {"x": [1, 6, 5, 4]}, ["y"], {"w": rand(6, 5, 2, 2), **numbers}), all_passes=True)
    assert [x.op for x in graph.layers] == ["Conv", "DepthToSpace", "Relu"]


def test_it_can_be_switched_off() -> None:
    assert "ConvTranspose" in ops(cleaned(transposed(strides=[2, 2]), disabled=[PASS])[0])


def test_what_would_outgrow_the_limit_on_a_tensor_stays() -> None:
    """6 x 5 windows of one number with stride 8 become as many of 64: 7,680 bytes."""
    proto = transposed((1, 1), weights=rand(6, 5, 1, 1), strides=[8, 8], output_padding=[7, 7]).SerializeToString()
    for tensor, op in ((7680, "Conv"), (7679, "ConvTranspose")):
        assert op in ops(import_model(proto, limits=Limits(tensor=tensor)).graph)
