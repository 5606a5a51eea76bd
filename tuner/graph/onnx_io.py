"""Graph -> ONNX, for references, peers and export. Knows ONNX, no TVM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from tuner.errors import InternalError
from tuner.graph.attrs import ELEM_TYPES, numpy_dtype, to_proto
from tuner.graph.ir import Constant, Graph, Tensor

_IR_VERSION = 8  # the lowest that knows all opsets up to 17 and initializers that are no inputs; see _ir_version
_EXTERNAL_FROM = 1 << 30  # bytes: a protobuf message ends at 2 GiB


def to_onnx(graph: Graph, weights: Mapping[str, np.ndarray]) -> ModelProto:
    """An ONNX model that computes ``graph``; tensor names are kept and layer ids become node names.

    Args:
        graph: a model or a workload.
        weights: arrays by constant name; literals (Constant.value) may be absent.

    Raises:
        InternalError: a constant has neither an array nor a value, or an array of another shape or dtype.
    """
    proto = helper.make_graph(
        [_node(graph, index) for index in range(len(graph.layers))],
        "fusetune",
        [_info(graph.tensors[name]) for name in graph.inputs],
        [_info(graph.tensors[name]) for name in graph.outputs],
    )
    ends = {*graph.inputs, *graph.outputs}
    proto.value_info.extend(_info(t) for t in graph.tensors.values() if t.name not in ends)
    proto.initializer.extend(
        numpy_helper.from_array(_array(constant, weights), constant.name) for constant in graph.constants.values()
    )
    domains = sorted({layer.domain for layer in graph.layers} - {""})
    opsets = [helper.make_opsetid("", graph.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    ir_version = 10 if graph.opset > 17 else _IR_VERSION
    return helper.make_model(proto, opset_imports=opsets, ir_version=ir_version, producer_name="fusetune")


def save_onnx(graph: Graph, weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Write ``to_onnx`` to ``path``; weights above 1 GB in all go to a second file, ``path`` + ".data"."""
    external = sum(constant.bytes for constant in graph.constants.values()) > _EXTERNAL_FROM
    onnx.save_model(
        to_onnx(graph, weights),
        str(path),
        save_as_external_data=external,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
    )


def _node(graph: Graph, index: int) -> onnx.NodeProto:
    layer = graph.layers[index]
    node = helper.make_node(layer.op, layer.inputs, layer.outputs, name=layer.id, domain=layer.domain)
    schema = onnx.defs.get_schema(layer.op, graph.opset, "") if not layer.domain else None
    node.attribute.extend(to_proto(name, value, schema) for name, value in layer.attrs)
    return node


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, ELEM_TYPES[tensor.dtype], tensor.shape)


def _array(constant: Constant, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    array = weights.get(constant.name)
    if array is None:
        if constant.value is None:
            raise InternalError(f"Constant '{constant.name}' has no array.")
        return np.array(constant.value, dtype=numpy_dtype(constant.dtype)).reshape(constant.shape)
    if array.shape != constant.shape or array.dtype != numpy_dtype(constant.dtype):
        raise InternalError(
            f"Constant '{constant.name}' is {constant.dtype}{list(constant.shape)}, but its array is "
            f"{array.dtype}{list(array.shape)}."
        )
    return array
