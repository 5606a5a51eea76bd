"""Products that share an input, merged into one where that should be faster on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tuner.gpu.cuda import target_of
from tuner.gpu.lower import Lowered, lower
from tuner.gpu.siblings import merge_siblings
from tuner.gpu.spec import GPUS
from tuner.graph.ir import Graph
from tuner.graph.load import ImportedModel, import_model
from tuner.graph.onnx_io import to_onnx
from tuner.graph.passes.registry import SLICING

SPEC = GPUS["h100"]
WIDTH, TOKENS, HEADS = 32, 12, 4


def model_of(
    path: Path, nodes: Sequence[onnx.NodeProto], shapes: Sequence[Sequence[int]], out: Sequence[int],
    weights: dict[str, np.ndarray],
) -> ImportedModel:  # fmt: skip
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xy", (*shapes, out), strict=True)]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return import_model(path, disabled=SLICING)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))


def attention(path: Path, *, bias: bool = True) -> ImportedModel:
    """Queries, keys and values of one tensor, two of them multiplied, and the third with what came out."""
    nodes, weights = [], {"split": np.array([1, TOKENS, HEADS, WIDTH // HEADS]), "whole": np.array([1, TOKENS, WIDTH])}
    for number, (name, perm) in enumerate((("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))):
        weights |= {f"w{name}": normal(WIDTH, WIDTH, seed=number), f"b{name}": normal(WIDTH, seed=9 + number)}
        nodes.append(helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}0"]))
        nodes.append(helper.make_node("Add", [f"{name}0", f"b{name}"], [f"{name}1"]))
        nodes.append(helper.make_node("Reshape", [f"{name}1" if bias else f"{name}0", "split"], [f"{name}2"]))
        nodes.append(helper.make_node("Transpose", [f"{name}2"], [f"{name}3"], perm=perm))
    nodes += [
        helper.make_node("MatMul", ["q3", "k3"], ["a"]), helper.make_node("Softmax", ["a"], ["s"], axis=-1),
        helper.make_node("MatMul", ["s", "v3"], ["o"]), helper.make_node("Transpose", ["o"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "whole"], ["y"]),
    ]  # fmt: skip
    shape = (1, TOKENS, WIDTH)
    return model_of(path, nodes, [shape], shape, weights)


def branches(path: Path, size: int, joined: bool) -> ImportedModel:
    """Two 1x1 convolutions with their activations; either a Concat reads them, or a sum, by which a Slice costs."""
    weights = {"w0": normal(16, 24, 1, 1), "w1": normal(16, 24, 1, 1, seed=1), "b0": normal(16), "b1": normal(16)}
    nodes = []
    for k in "01":
        nodes.append(helper.make_node("Conv", ["x", f"w{k}", f"b{k}"], [f"c{k}"]))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"]))
    nodes.append(helper.make_node("MaxPool", ["r1"], ["p"], kernel_shape=[3, 3], pads=[1] * 4))
    last = (
        helper.make_node("Concat", ["r0", "r1"], ["y"], axis=1)
        if joined
        else helper.make_node("Add", ["r0", "p"], ["y"])
    )
    if joined:
        nodes.pop()
    return model_of(path, [*nodes, last], [(1, 24, size, size)], (1, 32 if joined else 16, size, size), weights)


def onnx_result(graph: Graph, weights: dict[str, np.ndarray], given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        to_onnx(graph, weights).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {graph.inputs[0]: given})[0])


def on_this_cpu(lowered: Lowered, given: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.compile(lowered.module, "llvm"), tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(a) for a in (given, *lowered.parameters)]).numpy()


def ops(graph: Graph) -> list[str]:
    return [layer.op for layer in graph.layers]


@pytest.mark.parametrize("bias", [True, False])
def test_the_products_of_an_attention_become_one(tmp_path: Path, bias: bool) -> None:
    model = attention(tmp_path / "net.onnx", bias=bias)
    graph, weights = merge_siblings(model.graph, model.weights, SPEC)
    assert ops(model.graph).count("MatMul") - ops(graph).count("MatMul") == 2
    assert ops(graph).count("Slice") == 3 and ops(graph).count("Add") == bias
    merged = next(layer for layer in graph.layers if layer.op == "MatMul")
    assert weights[merged.inputs[1]].shape == (WIDTH, 3 * WIDTH)
    given = normal(1, TOKENS, WIDTH, seed=5)
    expected = onnx_result(model.graph, dict(model.weights), given)
    np.testing.assert_allclose(onnx_result(graph, dict(weights), given), expected, rtol=0, atol=1e-5)
    target = target_of(SPEC.device())
    before, after = lower(model.graph, model.weights, target), lower(graph, weights, target)
    np.testing.assert_allclose(on_this_cpu(after, given), expected, rtol=0, atol=1e-5)
    assert sum(t.calls for t in before.tasks) - sum(t.calls for t in after.tasks) == 2


def test_branches_that_are_joined_become_one_and_others_stay(tmp_path: Path) -> None:
    joined = branches(tmp_path / "joined.onnx", 8, joined=True)
    graph, weights = merge_siblings(joined.graph, joined.weights, SPEC)
    assert ops(graph) == ["Conv", "Relu", "Slice", "Slice", "Concat"]
    given = normal(1, 24, 8, 8)
    expected = onnx_result(joined.graph, dict(joined.weights), given)
    np.testing.assert_allclose(onnx_result(graph, dict(weights), given), expected, rtol=0, atol=1e-5)
    other = branches(tmp_path / "other.onnx", 8, joined=False)
    assert merge_siblings(other.graph, other.weights, SPEC) == (other.graph, other.weights)


def test_nothing_is_merged_twice_or_changed_in_place(tmp_path: Path) -> None:
    model = attention(tmp_path / "net.onnx")
    before = model.graph.hash
    graph, weights = merge_siblings(model.graph, model.weights, SPEC)
    assert model.graph.hash == before and not any("merged" in name for name in model.weights)
    assert merge_siblings(graph, weights, SPEC)[0] is graph
