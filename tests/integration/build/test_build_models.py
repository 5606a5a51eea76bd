"""Every model that TVM's importer takes compiles and is right, with and without templates of ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from build_models import build, build_and_compare, cleaned, feeds, machine, node, rand, small_net

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.plan.plan import IMPORTED, Block, Plan
from tuner.search.fusion import greedy, unfused

sys.path.append(str(Path(__file__).resolve().parents[2] / "unit" / "plan"))
from plan_graphs import random_dag


@pytest.mark.parametrize("how", ["greedy", "unfused", "one core"])
def test_a_small_convolutional_net(how: str, tmp_path: Path) -> None:
    graph, weights = small_net()
    device = machine()
    plan = {
        "greedy": lambda: greedy(graph, device, device.cores),
        "unfused": lambda: unfused(graph, device, device.cores),
        "one core": lambda: unfused(graph, device, 1),
    }[how]()
    model = build_and_compare(tmp_path, graph, weights, plan)
    kernels = model.manifest["kernels"]
    assert [i for k in kernels for i in k["layers"]] == [
        i for b in plan.blocks if b.template != "view" for i in b.layers
    ]
    assert not any(k["template"] == IMPORTED for k in kernels)


def test_equal_layers_share_one_kernel(tmp_path: Path) -> None:
    nodes = [node("Conv", [f"t{k}", f"w{k}"], f"t{k + 1}", kernel_shape=[1, 1]) for k in range(3)]
    graph, weights = cleaned(
        nodes, {"t0": [1, 16, 6, 6]}, ["t3"], {f"w{k}": rand(16, 16, 1, 1, seed=k) for k in range(3)}
    )
    model = build_and_compare(tmp_path, graph, weights)
    symbols = [k["symbol"] for k in model.manifest["kernels"] if k["layers"]]
    assert len(symbols) == 3
    assert len(set(symbols)) <= 2  # the first reads plain, or all are alike


X = {"x": [1, 6, 5, 7]}
F = np.float32
FALLBACKS: dict[str, tuple[Sequence[onnx.NodeProto], dict[str, Any], list[str], dict[str, np.ndarray]]] = {
    "Transpose": ([node("Transpose", ["x"], "y", perm=[0, 2, 3, 1])], X, ["y"], {}),
    "ReduceMax": ([node("ReduceMax", ["x"], "y", axes=[1], keepdims=0)], X, ["y"], {}),
    "ReduceSum of all": ([node("ReduceSum", ["x"], "y", keepdims=0)], X, ["y"], {}),
    "Resize": (
        [node("Resize", ["x", "", "s"], "y", mode="nearest", coordinate_transformation_mode="asymmetric",
              nearest_mode="floor")],
        X, ["y"], {"s": np.array([1, 1, 2, 2], F)},
    ),
    "Resize linear": (
        [node("Resize", ["x", "", "s"], "y", mode="linear")], X, ["y"], {"s": np.array([1, 1, 2, 2], F)},
    ),
    "Where": ([node("Where", ["c", "x", "z"], "y")], {"c": ("bool", [5, 7]), **X, "z": [7]}, ["y"], {}),
    "Split": ([node("Split", ["x", "n"], ["a", "b"], axis=1)], X, ["b", "a"], {"n": np.array([2, 4])}),
    "Split read by convolutions": (
        [node("Split", ["x", "n"], ["a", "b"], axis=1), node("Conv", ["a", "w"], "c", kernel_shape=[1, 1]),
         node("Add", ["b", "b"], "d"), node("Concat", ["c", "d"], "y", axis=1)],
        X, ["y"], {"n": np.array([3, 3]), "w": rand(5, 3, 1, 1)},
    ),
    "LayerNormalization": (
        [node("LayerNormalization", ["x", "s", "b"], "y", axis=-1)],
        {"x": [2, 5, 24]}, ["y"], {"s": rand(24), "b": rand(24, seed=1)},
    ),
    "Gather": ([node("Gather", ["w", "x"], "y", axis=0)], {"x": ("int64", [2, 4])}, ["y"], {"w": rand(9, 8)}),
    "integers": (
        [node("Add", ["a", "b"], "s"), node("Mul", ["s", "a"], "m"), node("Cast", ["m"], "y", to=1)],
        {"a": ("int64", [3, 4]), "b": ("int64", [4])}, ["s", "y"], {},
    ),
    "ConvTranspose": (
        [node("ConvTranspose", ["x", "w", "b"], "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
              output_padding=[1, 1])],
        X, ["y"], {"w": rand(6, 4, 3, 3), "b": rand(4)},
    ),
    "sequences": (
        [node("Conv", ["x", "w"], "c", pads=[1, 1]), node("Relu", ["c"], "r"),
         node("MaxPool", ["r"], "p", kernel_shape=[2], strides=[2]),
         node("ConvTranspose", ["p", "v"], "u", strides=[2]), node("Add", ["u", "c"], "y")],
        {"x": [1, 6, 30]}, ["y"], {"w": rand(20, 6, 3), "v": rand(20, 20, 2, seed=1)},
    ),
    "every second pixel, four times": (
        [node("Slice", ["x", f"{dy}{dx}", "ends", "axes", "steps"], f"s{dy}{dx}")
         for dx in "01" for dy in "01"]
        + [node("Concat", ["s00", "s10", "s01", "s11"], "j", axis=1), node("Conv", ["j", "w"], "y")],
        {"x": [1, 3, 8, 10]}, ["y"],
        {**{f"{dy}{dx}": np.array([dy, dx]) for dy in (0, 1) for dx in (0, 1)}, "ends": np.array([8, 10]),
         "axes": np.array([2, 3]), "steps": np.array([2, 2]), "w": rand(20, 12, 1, 1)},
    ),
    "LSTM": (
        [node("LSTM", ["x", "w", "r", "b"], ["y", "h"], hidden_size=20, direction="bidirectional"),
         node("Tanh", ["h"], "z")],
        {"x": [6, 1, 12]}, ["y", "z"], {"w": rand(2, 80, 12), "r": rand(2, 80, 20, seed=1), "b": rand(2, 160, seed=2)},
    ),
    "GRU of two sequences": (
        [node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=16, linear_before_reset=1)],
        {"x": [5, 2, 8]}, ["y"], {"w": rand(1, 48, 8), "r": rand(1, 48, 16, seed=1), "b": rand(1, 96, seed=2)},
    ),
    "an attention mask, Mish": (
        [node("MatMul", ["x", "k"], "s"), node("Where", ["m", "s", "low"], "t"), node("Softmax", ["t"], "a", axis=-1),
         node("Softplus", ["a"], "p"), node("Tanh", ["p"], "u"), node("Mul", ["a", "u"], "y")],
        {"x": [2, 5, 16]}, ["y"], {"k": rand(16, 24), "m": np.tril(np.ones((5, 24), bool), 3), "low": F(-3.4e38)},
    ),
    "volumes": (
        [node("Conv", ["x", "w", "b"], "c", pads=[1] * 6), node("Relu", ["c"], "r"),
         node("MaxPool", ["r"], "p", kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
         node("Conv", ["p", "v"], "d", pads=[1] * 6), node("ConvTranspose", ["d", "u"], "e", strides=[2, 2, 2]),
         node("Concat", ["e", "r"], "j", axis=1), node("Conv", ["j", "s"], "f", strides=[2, 1, 1]),
         node("Conv", ["f", "d3"], "g", group=16, pads=[1] * 6), node("GlobalAveragePool", ["g"], "y")],
        {"x": [1, 3, 6, 8, 10]}, ["y"],
        {"w": rand(20, 3, 3, 3, 3), "b": rand(20), "v": rand(32, 20, 3, 3, 3, seed=1),
         "u": rand(32, 16, 2, 2, 2, seed=2), "s": rand(16, 36, 1, 1, 1, seed=3), "d3": rand(16, 1, 3, 3, 3, seed=4)},
    ),
    "attention by Einsum, of parts of a Split": (
        [node("Split", ["x"], ["q", "k", "v"], axis=3), node("Einsum", ["q", "k"], "s", equation="bihd,bjhd->bhij"),
         node("Softmax", ["s"], "a", axis=-1), node("Einsum", ["a", "v"], "y", equation="bhij,bjhd->bihd")],
        {"x": [1, 9, 3, 24]}, ["y"], {},
    ),
    "parts of an image": (
        [node("Conv", ["x", "w"], "c"), node("Split", ["c"], ["a", "b"], axis=1), node("Conv", ["b", "v"], "d"),
         node("Concat", ["a", "b", "d"], "j", axis=1), node("Conv", ["j", "u"], "y")],
        X, ["y"], {"w": rand(32, 6, 1, 1), "v": rand(16, 16, 1, 1, seed=1), "u": rand(7, 48, 1, 1, seed=2)},
    ),
    "Gelu by a cube": (
        [node("Pow", ["x", "three"], "p"), node("Mul", ["p", "a"], "q"), node("Add", ["x", "q"], "s"),
         node("Tanh", ["s"], "t"), node("Add", ["t", "one"], "u"), node("Mul", ["x", "u"], "y")],
        {"x": [3, 40]}, ["y"], {"three": F(3), "a": F(0.044715), "one": F(1)},
    ),
    "enlarged images": (
        [node("Conv", ["x", "w"], "c"), node("Resize", ["c", "", "twice"], "r", mode="nearest",
              coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
         node("Resize", ["c", "", "thrice"], "s", mode="linear"), node("Conv", ["r", "v"], "y")],
        X, ["y", "s"], {"w": rand(20, 6, 1, 1), "v": rand(5, 20, 1, 1), "twice": np.array([1, 1, 2, 2], F),
                        "thrice": np.array([1, 1, 3, 3], F)},
    ),
    "running sums": ([node("CumSum", ["x", "axis"], "y")], {"x": [3, 40]}, ["y"], {"axis": np.array(1)}),
    "ConvTranspose in a U-Net": (
        [node("ConvTranspose", ["x", "w"], "u", strides=[2, 2], pads=[1] * 4), node("Relu", ["u"], "r"),
         node("Conv", ["z", "s"], "c"), node("Concat", ["r", "c"], "j", axis=1), node("Conv", ["j", "v"], "y")],
        {**X, "z": [X["x"][0], 3, *(2 * n for n in X["x"][2:])]}, ["y"],
        {"w": rand(6, 16, 4, 4), "s": rand(8, 3, 1, 1, seed=1), "v": rand(5, 24, 1, 1, seed=2)},
    ),
    "ConvTranspose, each channel by itself": (
        [node("ConvTranspose", ["x", "w", "b"], "u", strides=[4, 4], pads=[2] * 4, group=6), node("Relu", ["u"], "y")],
        X, ["y"], {"w": rand(6, 1, 8, 8), "b": rand(6)},
    ),
    "ConvTranspose with holes": (
        [node("ConvTranspose", ["x", "w"], "y", strides=[2, 1], dilations=[2, 2])], X, ["y"], {"w": rand(6, 4, 3, 3)},
    ),
    "InstanceNormalization": (
        [node("InstanceNormalization", ["x", "s", "b"], "y")], X, ["y"], {"s": rand(6), "b": rand(6, seed=1)},
    ),
    "ArgMax": ([node("ArgMax", ["x"], "y", axis=1, keepdims=0)], X, ["y"], {}),
    "Pad and Slice": (
        [node("Pad", ["x", "p"], "q"), node("Slice", ["q", "a", "b", "c"], "y")],
        X, ["y"],
        {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1]), "a": np.array([1]), "b": np.array([7]), "c": np.array([2])},
    ),
    "Pow, Log, Softplus": (
        [node("Abs", ["x"], "a"), node("Add", ["a", "one"], "b"), node("Log", ["b"], "l"), node("Pow", ["b", "e"], "p"),
         node("Add", ["l", "p"], "s"), node("Softplus", ["s"], "y")],
        X, ["y"], {"one": np.array(1, F), "e": np.array(1.5, F)},
    ),
    "one-dimensional convolution and pooling": (
        [node("Conv", ["x", "w"], "c", kernel_shape=[3]), node("Relu", ["c"], "r"),
         node("MaxPool", ["r"], "y", kernel_shape=[2], strides=[2])],
        {"x": [1, 4, 16]}, ["y"], {"w": rand(6, 4, 3)},
    ),
    "three-dimensional convolution and pooling": (
        [node("Conv", ["x", "w"], "c", kernel_shape=[3, 3, 3]),
         node("MaxPool", ["c"], "y", kernel_shape=[2, 2, 2], strides=[2, 2, 2])],
        {"x": [1, 2, 8, 8, 8]}, ["y"], {"w": rand(4, 2, 3, 3, 3)},
    ),
    "attention": (
        [node("MatMul", ["x", "wq"], "q"), node("MatMul", ["x", "wk"], "k"),
         node("Transpose", ["k"], "kt", perm=[0, 2, 1]),
         node("MatMul", ["q", "kt"], "s"), node("Softmax", ["s"], "a", axis=-1), node("MatMul", ["a", "x"], "y")],
        {"x": [2, 5, 16]}, ["y"], {"wq": rand(16, 16) * F(0.2), "wk": rand(16, 16, seed=1) * F(0.2)},
    ),
    "Softmax across channels": (
        [node("Conv", ["x", "w"], "c", kernel_shape=[1, 1]), node("Softmax", ["c"], "y", axis=1)],
        X, ["y"], {"w": rand(9, 6, 1, 1)},
    ),
    "DepthToSpace behind a convolution": (
        [node("Conv", ["x", "w"], "c", kernel_shape=[1, 1]), node("DepthToSpace", ["c"], "y", blocksize=2)],
        X, ["y"], {"w": rand(8, 6, 1, 1)},
    ),
    "convolution with computed weights": (
        [node("Mul", ["v", "two"], "w"), node("Conv", ["x", "w"], "y", kernel_shape=[1, 1])],
        {**X, "v": [4, 6, 1, 1]}, ["y"], {"two": np.array(2, F)},
    ),
    "division in a padded block": (
        [node("Conv", ["x", "w"], "c", kernel_shape=[1, 1]), node("Div", ["c", "d"], "q"), node("Relu", ["q"], "r"),
         node("Conv", ["r", "v"], "y", kernel_shape=[1, 1])],
        X, ["y"], {"w": rand(5, 6, 1, 1), "d": np.abs(rand(5, 1, 1)) + F(1), "v": rand(7, 5, 1, 1)},
    ),
    "a result in the middle": (
        [node("Conv", ["x", "w"], "c", kernel_shape=[1, 1]), node("Relu", ["c"], "r"), node("Sigmoid", ["r"], "y")],
        X, ["c", "y", "r"], {"w": rand(5, 6, 1, 1)},
    ),
    "one result twice": ([node("Relu", ["x"], "y"), node("Identity", ["y"], "z")], X, ["y", "z"], {}),
    "the input as a result": ([node("Relu", ["x"], "y"), node("Identity", ["x"], "z")], X, ["z", "y"], {}),
    "views of a blocked tensor": (
        [node("Conv", ["x", "w"], "c", kernel_shape=[1, 1]), node("Flatten", ["c"], "f"), node("Relu", ["c"], "r"),
         node("Unsqueeze", ["r", "a"], "y")],
        X, ["f", "y"], {"w": rand(5, 6, 1, 1), "a": np.array([0])},
    ),
    "names that are no identifiers": (
        [node("Relu", ["x:0"], "y/z 1"), node("Neg", ["y/z 1"], "x_0")], {"x:0": [2, 3]}, ["y/z 1", "x_0"], {},
    ),
    "no constants and a scalar": ([node("ReduceMean", ["x"], "m", keepdims=0), node("Exp", ["m"], "y")], X, ["y"], {}),
    "recurrence": (
        [node("Expand", ["x", "s"], "e"), node("Tile", ["e", "r"], "y")],
        {"x": [1, 3, 1]}, ["y"], {"s": np.array([2, 3, 4]), "r": np.array([1, 2, 1])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FALLBACKS)
def test_models_with_layers_of_every_kind(what: str, tmp_path: Path) -> None:
    nodes, inputs, outputs, constants = FALLBACKS[what]
    build_and_compare(tmp_path, *cleaned(nodes, inputs, outputs, constants))


@pytest.mark.parametrize("passes", ["all on", "all off"])
def test_dead_layers_and_constant_layers_do_no_harm(passes: str, tmp_path: Path) -> None:
    from tuner.graph.passes.registry import NAMES

    nodes = [
        node("Reshape", ["w", "shape"], "v"), node("Conv", ["x", "v"], "c", kernel_shape=[1, 1]),
        node("Identity", ["k"], "i"), node("Add", ["c", "i"], "s"), node("Dropout", ["s"], "d"),
        node("BatchNormalization", ["d", "g", "b", "m", "q"], "n"), node("Sigmoid", ["x"], "dead"),
        node("Relu", ["n"], "y"),
    ]  # fmt: skip
    constants = {
        "w": rand(5, 6), "shape": np.array([5, 6, 1, 1]), "k": rand(5, 1, 1), "g": rand(5), "b": rand(5, seed=1),
        "m": rand(5, seed=2), "q": np.abs(rand(5, seed=3)) + F(0.5),
    }  # fmt: skip
    disabled = NAMES if passes == "all off" else ()
    build_and_compare(tmp_path, *cleaned(nodes, X, ["y"], constants, disabled=disabled))


@pytest.mark.parametrize("seed", [3, 11, 27])
def test_a_random_tangle(seed: int, tmp_path: Path) -> None:
    build_and_compare(tmp_path, *random_dag(seed, count=12))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_random_tangles(seed: int, tmp_path: Path) -> None:
    build_and_compare(tmp_path, *random_dag(seed, count=10 + seed % 15))


def test_an_operator_whose_kernel_needs_more_than_the_runtime_is_named(tmp_path: Path) -> None:
    graph, weights = cleaned([node("TopK", ["x", "k"], ["v", "y"])], {"x": [4, 30]}, ["v"], {"k": np.array([3])})
    with pytest.raises(UserError) as caught:
        build(tmp_path, graph, weights)
    assert caught.value.code == "unsupported-operator" and "Operator TopK" in caught.value.message


def test_an_operator_nobody_knows_is_named(tmp_path: Path) -> None:
    from tuner.graph.ir import Layer, Tensor

    layer = Layer("Strange_1", "Strange", ("x",), ("y",))
    graph = Graph(("x",), ("y",), (layer,), {n: Tensor(n, (2, 3)) for n in "xy"}, {}, 17)
    plan = Plan.sequential(graph.hash, [Block(("Strange_1",), 1, IMPORTED)], {})
    with pytest.raises(UserError) as caught:
        build(tmp_path, graph, {}, plan)
    assert caught.value.code == "unsupported-operator"
    assert "Strange (layer Strange_1)" in caught.value.message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"template": "dense"}, "template 'dense' does not serve block"),
        ({"template": "magic"}, "there is no template 'magic'"),
        ({"knobs": {"unroll": 3}}, "outside the space of template 'elementwise'"),
        ({"knobs": {"speed": 1}}, "outside the space of template 'elementwise'"),
    ],
)
def test_a_plan_that_cannot_be_built_says_why(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    graph, weights = cleaned([node("Relu", ["x"], "y")], X, ["y"])
    block = {"layers": [graph.layers[0].id], "cores": 1, "template": "elementwise", **change}
    stages = [{"lanes": [{"blocks": [block]}]}]
    plan = Plan.from_json({"version": 1, "graph": graph.hash, "stages": stages})
    with pytest.raises(UserError) as caught:
        build(tmp_path, graph, weights, plan)
    assert text in caught.value.message


def test_inputs_are_checked_by_name_shape_and_type(tmp_path: Path) -> None:
    graph, weights = cleaned([node("Relu", ["x"], "y")], X, ["y"])
    model = build(tmp_path, graph, weights)
    x = feeds(graph)["x"]
    for bad in ({}, {"x": x[0]}, {"x": x.astype(np.float64)}, {"x": x, "z": x}):
        with pytest.raises(UserError) as caught:
            model.run(bad)
        assert caught.value.code == "bad-input"
    strided = np.asfortranarray(x)
    np.testing.assert_array_equal(model.run({"x": strided})["y"], np.maximum(x, 0))
