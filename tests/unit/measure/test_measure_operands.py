"""Models that round what convolutions multiply: as numpy does it, and only where the switch says so."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tuner.measure.operands import rounding_operands
from tuner.plan import int8
from tuner.plan.bf16 import rounded

RNG = np.random.default_rng(0)
X, W, V = (RNG.standard_normal(shape).astype(np.float32) for shape in ((5, 40), (40, 30), (30, 20)))


def model() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", X.shape), ("y", (5, 20)))]
    weights = [numpy_helper.from_array(a, n) for n, a in (("w", W), ("v", V))]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(made: onnx.ModelProto, **more: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(made)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": X, **more})
    return found


def test_all_of_the_weights_named_are_met_by_rounded_numbers() -> None:
    wanted = rounded(X) @ W
    assert np.allclose(run(rounding_operands(model(), {"h": (0,)})), wanted @ V, rtol=1e-4, atol=1e-4)
    assert np.allclose(
        run(rounding_operands(model(), {"h": (0,), "y": (0,)})), rounded(wanted) @ V, rtol=1e-4, atol=2e-3
    )
    assert np.abs(run(rounding_operands(model(), {"h": (0,)})) - X @ W @ V).max() > 1e-2


def test_any_operand_may_be_rounded() -> None:
    assert np.allclose(run(rounding_operands(model(), {"h": (0, 1)})), rounded(X) @ rounded(W) @ V, atol=1e-4)
    assert np.allclose(run(rounding_operands(model(), {"h": (1,)})), X @ rounded(W) @ V, atol=1e-4)


def test_an_operand_with_a_grid_takes_its_whole_steps() -> None:
    numbers = int8.grid(np.array([-1, 2], np.float32))
    made = rounding_operands(model(), {"h": (0,), "y": (0,)}, grids={"x": numbers.tolist()})
    wanted = rounded(int8.on_grid(X, numbers) @ W) @ V  # h has no grid
    assert np.allclose(run(made), wanted, rtol=1e-4, atol=2e-3)
    assert np.abs(run(rounding_operands(model(), {"y": (0,)})) - wanted).max() > 1e-1


def test_a_grid_in_a_model_is_that_of_kernels_to_the_last_bit() -> None:
    numbers = int8.grid(np.array([X.min(), X.max()], np.float32))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", X.shape), ("y", X.shape))]
    one = numpy_helper.from_array(np.eye(X.shape[1], dtype=np.float32), "w")
    made = helper.make_model(
        helper.make_graph([node], "one", ends[:1], ends[1:], [one]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    assert np.array_equal(
        run(rounding_operands(made, {"y": (0,)}, grids={"x": numbers.tolist()})), int8.on_grid(X, numbers)
    )


@pytest.mark.parametrize("chosen", [(False, False), (True, False), (False, True), (True, True)])
def test_a_switch_says_which_round(chosen: tuple[bool, bool]) -> None:
    found = run(rounding_operands(model(), {"h": (0,), "y": (0,)}, "switch"), switch=np.asarray(chosen))
    hidden = (rounded(X) if chosen[0] else X) @ W
    wanted = (rounded(hidden) if chosen[1] else hidden) @ V
    assert np.allclose(found, wanted, rtol=1e-4, atol=2e-3)
    if not any(chosen):
        assert np.abs(found - X @ W @ V).max() < 1e-3
