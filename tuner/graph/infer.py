"""Static types of every tensor, one node after the other, and the evaluation of constant nodes. Child process only.

Types come from ONNX's own per-operator inference; where that knows too little (com.microsoft operators, functions),
ONNX Runtime is asked about the single node. Small values (shapes, mostly) are computed on the way, because operators
such as Reshape take their output shape from them.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tuner.errors import UserError
from tuner.graph.attrs import ELEM_TYPES, to_proto
from tuner.graph.control_flow import inline
from tuner.graph.runtime import MICROSOFT, ORT_ERRORS, output_types, run_node
from tuner.graph.work import Node, Type, Work, static_type

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_ONNX_ERRORS = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError)
_SMALL = 4096  # elements: values up to this size are followed during inference


def infer(work: Work) -> None:
    """Fill ``work.types`` and ``work.known``; inline If and Loop whose course is known.

    Raises UserError naming the node when an output's shape depends on data, a type is not supported, a tensor is
    above the size limit, or inputs do not fit the operator.
    """
    todo, done = list(reversed(work.nodes)), []
    while todo:
        node = todo.pop()
        if node.graphs:
            todo.extend(reversed(inline(work, node)))
            continue
        _infer_node(work, node)
        done.append(node)
    work.nodes = done


def schema_of(op: str, domain: str, opset: int) -> onnx.defs.OpSchema | None:
    """ONNX's schema of an operator at an opset; None when there is none."""
    if domain:
        return None
    try:
        return onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None


def foldable(work: Work, node: Node) -> bool:
    """True when the node's outputs are the same at every run, given values for all its inputs."""
    return node.op not in RANDOM and not (node.op == "Dropout" and len(node.inputs) > 2)


def evaluate(work: Work, node: Node) -> list[np.ndarray]:
    """Run one node in ONNX Runtime on the known values of its inputs."""
    feeds = {name: np.asarray(_value(work, name), order="C") for name in node.inputs if name}
    try:
        return run_node(node_proto(node, work.opset), work.opset, feeds)
    except ORT_ERRORS as error:
        raise _misfit(node, error) from error


def node_proto(node: Node, opset: int) -> onnx.NodeProto:
    """The NodeProto of a node without subgraphs."""
    proto = helper.make_node(node.op, node.inputs, node.outputs, name=node.label, domain=node.domain)
    schema = schema_of(node.op, node.domain, opset)
    proto.attribute.extend(to_proto(name, value, schema) for name, value in sorted(node.attrs.items()))
    return proto


def _value(work: Work, name: str) -> np.ndarray:
    value = work.value(name)
    if value is None:
        raise KeyError(name)
    return value


def _infer_node(work: Work, node: Node) -> None:
    types = _output_types(work, node)
    for name in node.outputs:
        if not name:
            continue
        kind = types.get(name)
        if kind is None:
            raise UserError(
                f"The shape of '{name}', an output of {node.where}, cannot be known before the model runs.",
                code="dynamic-shape",
                hint="Every shape must follow from the input shapes alone.",
            )
        work.sizes.check_tensor(name, kind)
        work.types[name] = kind
    _follow_value(work, node)


def _output_types(work: Work, node: Node) -> dict[str, Type]:
    types = {name: work.type_of(name) for name in node.inputs if name}
    schema = schema_of(node.op, node.domain, work.opset)
    found: dict[str, Type] = {}
    if schema is not None:
        protos = {n: helper.make_tensor_type_proto(ELEM_TYPES[t.dtype], t.shape) for n, t in types.items()}
        data = {}
        for name in types:
            value = work.value(name)
            if value is not None and value.size <= _SMALL:
                data[name] = numpy_helper.from_array(value, name)
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, node_proto(node, work.opset), protos, data, opset_imports=[helper.make_opsetid("", work.opset)]
            )
        except _ONNX_ERRORS as error:
            raise _misfit(node, error) from error
        if any(p.HasField("sequence_type") or p.HasField("optional_type") for p in inferred.values()):
            raise UserError(
                f"Sequences and optional values are not supported at {node.where}.", code="unsupported-type"
            )
        found = {n: kind for n, proto in inferred.items() if (kind := static_type(proto)) is not None}
    if all(name in found for name in node.outputs if name):
        return found
    constants = {n: v for n in types if (v := work.value(n)) is not None and v.size <= _SMALL}
    inputs = {n: (t.dtype, t.shape) for n, t in types.items() if n not in constants}
    try:
        asked = output_types(node_proto(node, work.opset), work.opset, inputs, constants)
    except ORT_ERRORS as error:
        if node.domain == MICROSOFT:
            raise _misfit(node, error) from error
        return found
    return {n: Type(*kind) for n, kind in asked.items()} | found


def _follow_value(work: Work, node: Node) -> None:
    if node.domain or not foldable(work, node):
        return
    if node.op in ("Shape", "Size"):
        shape = np.array(work.type_of(node.inputs[0]).shape, dtype=np.int64)
        if node.op == "Size":
            work.known[node.outputs[0]] = np.array(prod(shape.tolist()), dtype=np.int64)
        else:
            work.known[node.outputs[0]] = shape[node.attr("start", 0) : node.attr("end", len(shape))]
        return
    values = [work.value(name) for name in node.inputs if name]
    outputs = [name for name in node.outputs if name]
    if any(v is None or v.size > _SMALL for v in values):
        return
    if any(prod(work.types[name].shape) > _SMALL for name in outputs):
        return
    for name, value in zip(outputs, evaluate(work, node), strict=True):
        work.known[name] = value
        work.types[name] = Type(value.dtype.name, value.shape)


def _misfit(node: Node, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    if "is not a registered function/op" in text or "Fatal error: com.microsoft" in text:
        return unknown_operator(node.op, node.domain, node.label or node.outputs[0])
    if any(sign in text for sign in ("bad_alloc", "bad allocation", "Failed to allocate")):
        return UserError(f"The model needs more memory than the import may use, at {node.where}.", code="model-memory")
    return UserError(f"The model is invalid at {node.where}: {text[:300].rstrip('.')}.", code="invalid-model")


def unknown_operator(op: str, domain: str, label: str, opset: int | None = None) -> UserError:
    at = f" at opset {opset}" if opset is not None and not domain else ""
    return UserError(
        f"Operator '{op}' of domain '{domain or 'ai.onnx'}' (node '{label}') is not known{at}.",
        code="unknown-operator",
        hint="Supported are the operators of ONNX's default domain (opset 7 to 26) and of com.microsoft.",
    )
