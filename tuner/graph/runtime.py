"""ONNX Runtime for a single node: its output shapes, or its outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tuner.graph.attrs import ELEM_TYPES

MICROSOFT = "com.microsoft"
_STATE = onnxruntime.capi.onnxruntime_pybind11_state
ORT_ERRORS = (
    _STATE.Fail, _STATE.InvalidArgument, _STATE.InvalidGraph, _STATE.InvalidProtobuf, _STATE.NotImplemented,
    _STATE.RuntimeException, _STATE.EPFail, RuntimeError, ValueError, TypeError,
)  # fmt: skip
_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16", "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def run_node(node: onnx.NodeProto, opset: int, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The node's outputs (absent optional ones left out), on one thread. Raises one of ORT_ERRORS."""
    inputs = {name: (array.dtype.name, array.shape) for name, array in feeds.items()}
    outputs = _session(node, opset, inputs, {}).run([o for o in node.output if o], dict(feeds))
    return [np.asarray(output) for output in outputs]


def output_types(
    node: onnx.NodeProto,
    opset: int,
    inputs: Mapping[str, tuple[str, tuple[int, ...]]],
    constants: Mapping[str, np.ndarray],
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of those outputs that ONNX Runtime can tell without running. Raises one of ORT_ERRORS."""
    found = {}
    for out in _session(node, opset, inputs, constants).get_outputs():
        if out.type in _DTYPES and all(isinstance(d, int) and d >= 0 for d in out.shape):
            found[out.name] = (_DTYPES[out.type], tuple(out.shape))
    return found


def _session(
    node: onnx.NodeProto,
    opset: int,
    inputs: Mapping[str, tuple[str, tuple[int, ...]]],
    constants: Mapping[str, np.ndarray],
) -> onnxruntime.InferenceSession:
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(n, ELEM_TYPES[dtype], shape) for n, (dtype, shape) in inputs.items()],
        [helper.make_empty_tensor_value_info(o) for o in node.output if o],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
