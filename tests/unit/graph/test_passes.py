"""Each cleaning pass alone: what it does to the graph, that results stay, and that disabling it keeps the nodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graph_models import array, check, cleaned, model, node, only, ops, rand
from onnx import ModelProto

from tuner.errors import UserError
from tuner.graph.passes.pipeline import PASSES
from tuner.graph.passes.registry import DESCRIPTIONS, NAMES, check_names


def bn(channels: int, prefix: str, seed: int = 0) -> dict[str, np.ndarray]:
    values = rand(4, channels, seed=seed)
    return {
        f"{prefix}s": values[0], f"{prefix}b": values[1], f"{prefix}m": values[2], f"{prefix}v": np.exp(values[3]),
    }  # fmt: skip


def bn_node(x: str, y: str, prefix: str) -> onnx.NodeProto:
    return node("BatchNormalization", [x, *(prefix + k for k in "sbmv")], y, epsilon=1e-3)


def batch_norm() -> ModelProto:
    return model([bn_node("x", "y", "n")], {"x": [2, 3, 4, 5]}, ["y"], bn(3, "n"))


def shape_arithmetic() -> ModelProto:
    """A flatten as exporters write it: Shape, Gather, Concat, Reshape."""
    return model(
        [
            node("Shape", ["x"], "s"),
            node("Gather", ["s", "zero"], "n"),
            node("Unsqueeze", ["n", "axis"], "u"),
            node("Concat", ["u", "rest"], "to", axis=0),
            node("Reshape", ["x", "to"], "r"),
            node("ConstantOfShape", ["size"], "c", value=onnx.helper.make_tensor("v", 1, [1], [2.5])),
            node("Add", ["r", "c"], "y"),
        ],
        {"x": [2, 3, 4]},
        ["y"],
        {"zero": 0, "axis": [0], "rest": [-1], "size": [2, 12]},
    )


def reshapes() -> ModelProto:
    return model(
        [
            node("Flatten", ["x"], "a"),
            node("Unsqueeze", ["a", "axes"], "b"),
            node("Reshape", ["b", "shape"], "c"),
            node("Squeeze", ["c", "axes"], "d"),
            node("Relu", ["d"], "y"),
        ],
        {"x": [2, 3, 4]},
        ["y"],
        {"axes": [2], "shape": [4, 6, 1]},
    )


def twins() -> ModelProto:
    return model(
        [
            node("Mul", ["x", "a"], "p"),
            node("Mul", ["x", "b"], "q"),
            node("Relu", ["p"], "r"),
            node("Relu", ["q"], "s"),
            node("Add", ["r", "s"], "y"),
        ],
        {"x": [2, 3]},
        ["y"],
        {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]},
    )


def layer_norm(square: str = "Pow", axes: tuple[int, ...] = (-1,), outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    """As exporters wrote it before opset 17."""
    return model(
        [
            node("ReduceMean", ["x"], "m", axes=list(axes)),
            node("Sub", ["x", "m"], "d"),
            node("Pow", ["d", "two"], "p") if square == "Pow" else node("Mul", ["d", "d"], "p"),
            node("ReduceMean", ["p"], "v", axes=list(axes)),
            node("Add", ["v", "epsilon"], "e"),
            node("Sqrt", ["e"], "r"),
            node("Div", ["d", "r"], "n"),
            node("Mul", ["n", "s"], "g"),
            node("Add", ["t", "g"], "y"),
        ],
        {"x": [2, 3, 6]},
        list(outputs),
        {"two": 2.0, "epsilon": 1e-3, "s": rand(6), "t": rand(1, 1, 6, seed=1)},
    )


DECOMPOSED = {"ReduceMean": 2, "Sub": 1, "Pow": 1, "Add": 2, "Sqrt": 1, "Div": 1, "Mul": 1}

CASES: dict[str, tuple[Callable[[], ModelProto], dict[str, int], dict[str, int]]] = {
    "fold-constants": (
        shape_arithmetic,
        {"Shape": 1, "Gather": 1, "Unsqueeze": 1, "Concat": 1, "Reshape": 1, "ConstantOfShape": 1, "Add": 1},
        {"Reshape": 1, "Add": 1},
    ),
    "eliminate-nop": (
        lambda: model([node("Identity", ["x"], "a"), node("Relu", ["a"], "b"), node("Dropout", ["b"], "y")],
                      {"x": [2, 3]}, ["y"]),
        {"Identity": 1, "Relu": 1, "Dropout": 1},
        {"Relu": 1},
    ),
    "sum-to-add": (
        lambda: model([node("Sum", ["x", "c", "z"], "y")], {"x": [2, 1], "z": [1, 3]}, ["y"], {"c": [1.0, 2.0, 3.0]}),
        {"Sum": 1},
        {"Add": 2},
    ),
    "batch-norm-to-scale-shift": (batch_norm, {"BatchNormalization": 1}, {"Mul": 1, "Add": 1}),
    "fuse-layer-norm": (
        layer_norm,
        DECOMPOSED,
        {"LayerNormalization": 1},
    ),
    "matmul-to-gemm": (
        lambda: model([node("MatMul", ["x", "w"], "p"), node("Add", ["b", "p"], "y")], {"x": [4, 3]}, ["y"],
                      {"w": rand(3, 5), "b": rand(5)}),
        {"MatMul": 1, "Add": 1},
        {"Gemm": 1},
    ),
    "fold-scale-shift": (
        lambda: model([node("Conv", ["x", "w"], "p"), node("Mul", ["p", "s"], "q"), node("Add", ["t", "q"], "y")],
                      {"x": [1, 3, 5, 5]}, ["y"], {"w": rand(4, 3, 3, 3), "s": rand(4, 1, 1), "t": rand(1, 4, 1, 1)}),
        {"Conv": 1, "Mul": 1, "Add": 1},
        {"Conv": 1},
    ),
    "merge-reshapes": (
        reshapes, {"Flatten": 1, "Unsqueeze": 1, "Reshape": 1, "Squeeze": 1, "Relu": 1}, {"Reshape": 1, "Relu": 1},
    ),
    "flatten-concat": (
        lambda: model([node("Concat", ["x", "z"], "a", axis=1), node("Concat", ["a", "x"], "y", axis=-1)],
                      {"x": [2, 3], "z": [2, 1]}, ["y"]),
        {"Concat": 2},
        {"Concat": 1},
    ),
    "eliminate-common-subexpressions": (twins, {"Mul": 2, "Relu": 2, "Add": 1}, {"Mul": 1, "Relu": 1, "Add": 1}),
    "eliminate-dead": (
        lambda: model([node("Relu", ["x"], "a"), node("Exp", ["x"], "y"), node("Abs", ["a"], "b")],
                      {"x": [2, 3]}, ["y"]),
        {"Relu": 1, "Exp": 1, "Abs": 1},
        {"Exp": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pass_alone_does_its_work_and_keeps_results(name: str) -> None:
    make, before, after = CASES[name]
    assert ops(check(make())) == before  # all passes off: every node stays
    assert ops(check(make(), name)) == after


@pytest.mark.parametrize("name", [n for n in CASES if n != "eliminate-dead"])
def test_disabling_a_pass_keeps_what_it_would_remove(name: str) -> None:
    make, before, after = CASES[name]
    graph, _ = cleaned(make(), disabled=[name, "pow-to-mul"])  # which takes a part of what others look for
    gone = before.keys() - after.keys()
    if name in ("fold-scale-shift", "fold-constants"):
        assert len(graph.layers) > sum(after.values())
    elif name == "merge-reshapes":
        assert ops(graph)["Flatten"] == 1
    else:
        assert all(ops(graph).get(op) == before[op] for op in gone)


@pytest.mark.parametrize("axes", [(-1,), (1, 2), (2, 1)])
def test_layer_norm_over_the_last_axes_is_found(axes: tuple[int, ...]) -> None:
    graph = check(layer_norm("Mul", axes), "fuse-layer-norm", "eliminate-dead")
    assert ops(graph) == {"LayerNormalization": 1}
    assert graph.layers[0].attr("axis") == 3 - len(axes)


@pytest.mark.parametrize(
    ("proto", "left"),
    [
        (layer_norm(axes=(1,)), DECOMPOSED),
        (layer_norm(outputs=("y", "v")), DECOMPOSED),
        (layer_norm(outputs=("y", "n")), {"LayerNormalization": 1, "Mul": 1, "Add": 1}),
        (layer_norm(outputs=("y", "d")), {"LayerNormalization": 1, "ReduceMean": 1, "Sub": 1}),
    ],
)
def test_layer_norm_whose_parts_are_wanted_keeps_them(proto: ModelProto, left: dict[str, int]) -> None:
    assert ops(check(proto, "fuse-layer-norm")) == left


def test_upgrade_opset_raises_old_models_only() -> None:
    old = model([node("Dropout", ["x"], "d", ratio=0.3), node("Softmax", ["d"], "y", axis=1)], {"x": [2, 3, 4]}, ["y"],
                opset=9)  # fmt: skip
    assert check(old).opset == 9
    assert check(old, "upgrade-opset").opset == 17
    new = model([node("Gelu", ["x"], "y")], {"x": [2, 3]}, ["y"], opset=20)
    assert check(new, "upgrade-opset").opset == 20


def test_registry_and_pipeline_agree() -> None:
    assert tuple(PASSES) == NAMES[1:]
    assert all(DESCRIPTIONS.values())
    with pytest.raises(UserError, match="no cleaning pass 'fold'") as caught:
        check_names(["fold"])
    assert caught.value.code == "unknown-pass"
    assert all(name in caught.value.hint for name in NAMES)


def test_conv_bn_mul_add_is_a_bare_conv_with_bias() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]),
            bn_node("c", "n", "n"),
            node("Mul", ["n", "s"], "m"),
            node("Add", ["m", "t"], "a"),
            node("Relu", ["a"], "y"),
        ],
        {"x": [1, 3, 6, 6]},
        ["y"],
        {"w": rand(4, 3, 3, 3), "s": rand(4, 1, 1), "t": rand(4, 1, 1)} | bn(4, "n"),
    )
    graph = check(proto, all_passes=True)
    assert ops(graph) == {"Conv": 1, "Relu": 1}
    assert len(graph.layers[0].inputs) == 3


def test_pre_activation_bn_mul_add_is_one_mul_and_one_add() -> None:
    proto = model(
        [bn_node("x", "n", "n"), node("Mul", ["n", "s"], "m"), node("Add", ["m", "t"], "a"), node("Relu", ["a"], "y")],
        {"x": [1, 3, 6, 6]},
        ["y"],
        {"s": rand(3, 1, 1), "t": rand(3, 1, 1)} | bn(3, "n"),
    )
    graph = check(proto, all_passes=True)
    assert [layer.op for layer in graph.layers] == ["Mul", "Add", "Relu"]
    assert {c.shape for c in graph.constants.values()} == {(3, 1, 1)}


@pytest.mark.parametrize("group", [1, 2])
def test_scale_folds_into_grouped_conv_transpose(group: int) -> None:
    proto = model(
        [node("ConvTranspose", ["x", "w", "b"], "c", group=group), bn_node("c", "y", "n")],
        {"x": [1, 4, 5, 5]},
        ["y"],
        {"w": rand(4, 6 // group, 3, 3), "b": rand(6)} | bn(6, "n"),
    )
    assert ops(check(proto, *(set(NAMES) - {"conv-transpose-to-conv"}), rtol=1e-4)) == {"ConvTranspose": 1}


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias", [(), (5,), (1, 5), (4, 1), (4, 5), None])
def test_scale_and_shift_fold_into_gemm(trans: int, bias: tuple[int, ...] | None) -> None:
    inputs = ["x", "w"] if bias is None else ["x", "w", "b"]
    constants = {"w": rand(5, 3) if trans else rand(3, 5), "s": rand(5), "t": rand(1, 5)}
    if bias is not None:
        constants["b"] = rand(*bias) if bias else array(0.7)
    proto = model(
        [
            node("Gemm", inputs, "g", transB=trans, alpha=0.5, beta=2.0),
            node("Div", ["g", "s"], "q"),
            node("Sub", ["q", "t"], "y"),
        ],
        {"x": [4, 3]},
        ["y"],
        constants,
    )
    found = ops(check(proto, all_passes=True))
    assert found["Gemm"] == 1
    if bias != (4, 1):  # that one would become a whole matrix
        assert found == {"Gemm": 1}


def test_scale_is_not_folded_where_the_intermediate_is_read_elsewhere() -> None:
    proto = model(
        [node("Conv", ["x", "w"], "c"), node("Mul", ["c", "s"], "m"), node("Add", ["m", "c"], "y")],
        {"x": [1, 3, 5, 5]},
        ["y"],
        {"w": rand(4, 3, 3, 3), "s": rand(4, 1, 1)},
    )
    assert ops(check(proto, all_passes=True)) == {"Conv": 1, "Mul": 1, "Add": 1}


def test_weights_shared_by_two_convs_are_folded_apart() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], "a"),
            node("Mul", ["a", "s"], "b"),
            node("Conv", ["x", "w"], "c", strides=[1, 1], dilations=[1, 1]),
            node("Add", ["b", "c"], "y"),
        ],
        {"x": [1, 3, 5, 5]},
        ["y"],
        {"w": rand(4, 3, 3, 3), "s": rand(4, 1, 1)},
    )
    assert ops(check(proto, all_passes=True)) == {"Conv": 2, "Add": 1}


@pytest.mark.parametrize("shape", [(5,), (5, 5), (1, 1, 1, 5), (2, 4, 5, 5)])
def test_constants_along_other_axes_or_enlarging_are_not_folded(shape: tuple[int, ...]) -> None:
    proto = model([node("Conv", ["x", "w"], "c"), node("Mul", ["c", "s"], "y")], {"x": [1, 3, 7, 7]}, ["y"],
                  {"w": rand(4, 3, 3, 3), "s": rand(*shape)})  # fmt: skip
    assert ops(check(proto, all_passes=True)) == {"Conv": 1, "Mul": 1}


def test_reversed_operands_and_units_in_chains() -> None:
    proto = model(
        [
            node("Sub", ["one", "x"], "a"),
            node("Mul", ["a", "one"], "b"),
            node("Div", ["b", "four"], "c"),
            node("Add", ["c", "zero"], "d"),
            node("Relu", ["d"], "y"),
        ],
        {"x": [2, 3]},
        ["y"],
        {"one": 1.0, "four": 4.0, "zero": 0.0},
    )
    assert ops(check(proto, all_passes=True)) == {"Mul": 1, "Add": 1, "Relu": 1}
    unit = model([node("Mul", ["x", "one"], "a"), node("Add", ["a", "zero"], "b"), node("Relu", ["b"], "y")],
                 {"x": [2, 3]}, ["y"], {"one": 1.0, "zero": 0.0})  # fmt: skip
    assert ops(check(unit, all_passes=True)) == {"Relu": 1}


def test_integer_arithmetic_and_division_by_zero_stay() -> None:
    ints = model([node("Mul", ["x", "s"], "p"), node("Div", ["p", "s"], "y")], {"x": [3]}, ["y"], {"s": [2, 3, 4]},
                 dtype=onnx.TensorProto.INT64)  # fmt: skip
    assert ops(cleaned(ints)[0]) == {"Mul": 1, "Div": 1}
    zero = model([node("Mul", ["x", "two"], "p"), node("Div", ["p", "zero"], "y")], {"x": [3]}, ["y"],
                 {"two": 2.0, "zero": 0.0})  # fmt: skip
    assert ops(check(zero, all_passes=True)) == {"Mul": 1, "Div": 1}


@pytest.mark.parametrize(
    "nop",
    [
        node("Cast", ["a"], "b", to=1),
        node("Reshape", ["a", "shape"], "b"),
        node("Transpose", ["a"], "b", perm=[0, 1, 2]),
        node("Transpose", ["a"], "b", perm=[1, 0, 2]),  # axis 0 has size 1... but the shape changes: see below
        node("Pad", ["a", "pads"], "b"),
        node("Slice", ["a", "starts", "ends"], "b"),
        node("Concat", ["a"], "b", axis=0),
        node("Expand", ["a", "shape"], "b"),
        node("Dropout", ["a", "", "no"], "b"),
        node("Max", ["a"], "b"),
    ],
)
def test_operators_that_do_nothing_go(nop: onnx.NodeProto) -> None:
    constants = {
        "shape": [1, 3, 4], "pads": [0] * 6, "starts": [0, 0, 0], "ends": [9, 9, 9], "no": np.array(False),
    }  # fmt: skip
    proto = model([node("Exp", ["x"], "a"), nop, node("Relu", ["b"], "y")], {"x": [1, 3, 4]}, ["y"], constants)
    expected = {"Exp": 1, "Relu": 1}
    if nop.op_type == "Transpose" and list(nop.attribute[0].ints) == [1, 0, 2]:
        expected["Transpose"] = 1
    assert ops(check(proto, "eliminate-nop", "eliminate-dead")) == expected


@pytest.mark.parametrize(
    "real",
    [
        node("Slice", ["a", "starts", "ends", "axes", "steps"], "b"),  # reversed, of the same shape
        node("Transpose", ["a"], "b", perm=[1, 0]),
        node("Dropout", ["a", "", "yes"], "b"),
    ],
)
def test_operators_that_keep_the_shape_but_do_something_stay(real: onnx.NodeProto) -> None:
    constants = {"starts": [-1], "ends": [-9], "axes": [0], "steps": [-1], "yes": np.array(True)}
    proto = model([node("Exp", ["x"], "a"), real, node("Relu", ["b"], "y")], {"x": [3, 3]}, ["y"], constants)
    graph, _ = cleaned(proto)
    assert ops(graph)[real.op_type] == 1


def test_graph_outputs_keep_their_names_through_nops_and_constants() -> None:
    proto = model(
        [
            node("Identity", ["x"], "copy"),
            node("Relu", ["x"], "r"),
            node("Identity", ["r"], "y"),
            node("Identity", ["r"], "z"),
            node("Add", ["c", "c"], "two"),
        ],
        {"x": [2, 3]},
        ["copy", "y", "z", "r", "two"],
        {"c": [1.0, 2.0]},
    )
    graph = check(proto, all_passes=True)
    assert graph.outputs == ("copy", "y", "z", "r", "two")


def test_outputs_that_are_constants_and_inputs() -> None:
    proto = model([node("Constant", [], "k", value_float=2.0), node("Mul", ["x", "w"], "y")], {"x": [2]},
                  ["y", "k", "w", "x"], {"w": [1.0, 3.0]})  # fmt: skip
    for all_passes in (False, True):
        graph = check(proto, all_passes=all_passes)
        assert graph.outputs == ("y", "k", "w", "x")
        assert set(graph.outputs) <= set(graph.tensors)


def test_softmax_between_reshapes_is_freed_from_them() -> None:
    old = model([node("Softmax", ["x"], "y", axis=1)], {"x": [1, 10, 1, 1]}, ["y"], opset=9)
    graph = check(old, all_passes=True)
    assert ops(graph) == {"Softmax": 1}
    assert graph.layers[0].attr("axis") == 1
    wide = model([node("Softmax", ["x"], "y", axis=1)], {"x": [1, 10, 2, 1]}, ["y"], opset=9)
    assert ops(check(wide, all_passes=True))["Softmax"] == 1


def test_equal_constants_of_different_sign_of_zero_are_not_merged() -> None:
    proto = model([node("Div", ["x", "p"], "a"), node("Div", ["x", "n"], "b"), node("Sub", ["a", "b"], "y")],
                  {"x": [2]}, ["y"], {"p": [0.0, 1.0], "n": [-0.0, 1.0]})  # fmt: skip
    assert ops(check(proto, all_passes=True)) == {"Div": 2, "Sub": 1}


def test_random_operators_are_neither_folded_nor_merged() -> None:
    proto = model(
        [
            node("RandomNormal", [], "a", shape=[2]),
            node("RandomNormal", [], "b", shape=[2]),
            node("Add", ["a", "b"], "c"),
            node("Add", ["c", "x"], "y"),
        ],
        {"x": [2]},
        ["y"],
    )
    assert ops(cleaned(proto)[0]) == {"RandomNormal": 2, "Add": 2}


def test_matmul_of_higher_rank_does_not_become_gemm() -> None:
    proto = model([node("MatMul", ["x", "w"], "p"), node("Add", ["p", "b"], "y")], {"x": [2, 4, 3]}, ["y"],
                  {"w": rand(3, 5), "b": rand(5)})  # fmt: skip
    assert ops(check(proto, all_passes=True)) == {"MatMul": 1, "Add": 1}


def test_all_optional_outputs_nobody_reads_vanish() -> None:
    proto = model([node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])], {"x": [1, 1, 4, 4]}, ["y"])
    assert len(check(proto, *only("eliminate-dead")).layers[0].outputs) == 2
    assert len(check(proto, "eliminate-dead").layers[0].outputs) == 1
