"""ONNX bytes -> a checked ModelProto without its big weights, and those weights as arrays. Child process only.

The weights are taken out first, so that checking, upgrading and shape inference never copy them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tuner.errors import UserError
from tuner.graph.attrs import DTYPES, ELEM_TYPES, from_proto
from tuner.graph.infer import schema_of, unknown_operator
from tuner.graph.input_shapes import declared_shapes, fix_shapes
from tuner.graph.ir import LITERAL_LIMIT
from tuner.graph.open_shapes import Dims
from tuner.graph.order import sort, subgraphs
from tuner.graph.weights import read_tensor
from tuner.graph.work import Node, Sizes, Type, Work

OLDEST, NEWEST = 7, 26  # opsets; ONNX Runtime, the reference, knows none beyond
_DOMAINS = ("", "com.microsoft")
_TOP_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}  # of ModelProto: wire type


@dataclass(frozen=True)
class Parsed:
    """A valid model: ``proto`` has static inputs; its big initializers became inputs, with arrays in ``arrays``."""

    proto: ModelProto
    arrays: Mapping[str, np.ndarray]  # every initializer, small ones too
    inputs: tuple[str, ...]  # without those that have initializers
    opset: int
    sha256: str  # of the file's bytes
    declared: Mapping[str, Dims | None]  # shapes of the inputs as the file has them
    beside: tuple[str, ...]  # files with weights, as the model names them


def parse(data: bytes, folder: Path | None, shapes: Mapping[str, tuple[int, ...]], sizes: Sizes) -> Parsed:
    """Decode, check and sort a model. ``folder`` is where external data may lie (None: nowhere).

    Raises UserError for everything that makes the model unusable.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    model = _decode(data)
    del data  # it may be large
    _check_text(model.graph)
    model = _inline_functions(model)
    opset = _opset(model)
    graph = model.graph
    _plain_domains(graph)
    _check_operators(graph, opset)
    beside = _beside(graph)
    arrays = _take_weights(graph, folder, sizes)
    inputs = tuple(i.name for i in graph.input if i.name not in arrays)
    declared = declared_shapes(graph, inputs)
    fix_shapes(graph, declared, shapes)
    _keep_small_initializers(graph, inputs, arrays)
    sort(graph, arrays)
    for output in graph.output:  # the declared type is not used, but the checker wants one
        output.type.CopyFrom(helper.make_tensor_type_proto(output.type.tensor_type.elem_type or 1, None))
        output.type.tensor_type.shape.SetInParent()
    model.ir_version = max(min(model.ir_version, 10), 4)  # 4: inputs need not list the initializers
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split("==>")[0].split()).rstrip(". ")
        raise UserError(f"The model is not valid ONNX: {text[:300]}.", code="invalid-model") from error
    return Parsed(model, arrays, inputs, opset, sha256, declared, beside)


def to_work(parsed: Parsed, sizes: Sizes) -> Work:
    """The mutable graph of a parsed model; types are those of inputs only, see infer()."""
    graph = parsed.proto.graph
    arrays = dict(parsed.arrays)
    for tensor in graph.initializer:
        if tensor.name not in arrays:  # made by an opset upgrade
            arrays[tensor.name] = numpy_helper.to_array(tensor)
    types = {}
    for info in graph.input:
        if info.name in parsed.inputs:
            kind = info.type.tensor_type
            types[info.name] = Type(DTYPES[kind.elem_type], tuple(d.dim_value for d in kind.shape.dim))
    work = Work(list(parsed.inputs), [o.name for o in graph.output], [], arrays, types, parsed.opset, sizes)
    for proto in graph.node:
        add_node(work, proto)
    for name in work.outputs:
        if name in work.arrays:  # in a Graph, only layers write outputs
            value = work.arrays.pop(name)
            work.nodes.append(Node("Identity", [work.add_constant(f"{name}_value", value)], [name], label=name))
            work.rename_uses({name: work.nodes[-1].inputs[0]})
    return work


def add_node(work: Work, proto: NodeProto) -> None:
    """Append a NodeProto; a Constant becomes an array at once, since a Graph keeps arrays beside its layers."""
    node = to_node(proto, work)
    if node is not None:
        work.nodes.append(node)


def to_node(proto: NodeProto, work: Work) -> Node | None:
    """The Node of a NodeProto; None for a Constant, which is stored in ``work.arrays``."""
    label = proto.name or next((o for o in proto.output if o), proto.op_type)
    if proto.op_type == "Constant" and not proto.domain:
        work.arrays[proto.output[0]] = _constant(proto, label)
        return None
    node = Node(proto.op_type, list(proto.input), list(proto.output), domain=proto.domain, label=label)
    for attribute in proto.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            node.graphs[attribute.name] = attribute.g
        else:
            node.attrs[attribute.name] = from_proto(attribute, node.where)
    while node.inputs and not node.inputs[-1]:
        node.inputs.pop()
    while len(node.outputs) > 1 and not node.outputs[-1]:
        node.outputs.pop()
    return node


def _constant(proto: NodeProto, label: str) -> np.ndarray:
    for a in proto.attribute:
        if a.name == "value" and a.t.data_type in DTYPES:
            return np.asarray(numpy_helper.to_array(a.t))
        if a.name in ("value_int", "value_ints"):
            return np.array(a.i if a.name == "value_int" else list(a.ints), dtype=np.int64)
        if a.name in ("value_float", "value_floats"):
            return np.array(a.f if a.name == "value_float" else list(a.floats), dtype=np.float32)
    raise UserError(f"Node '{label}' (Constant) holds no value of a supported kind.", code="unsupported-attribute")


def _decode(data: bytes) -> ModelProto:
    if not data:
        raise UserError("The model file is empty.", code="empty-model")
    verdict = _scan(data)
    if verdict == "truncated":
        raise UserError("The model file is truncated: it ends inside a field.", code="truncated-model")
    model = ModelProto()
    try:
        if verdict == "foreign":
            raise DecodeError("not the fields of an ONNX model")
        model.ParseFromString(data)
    except DecodeError as error:
        raise UserError("The file is not an ONNX model.", code="not-onnx", hint="Give a .onnx file.") from error
    if not model.HasField("graph") or not model.ir_version:
        raise UserError("The file is not an ONNX model: it holds no graph.", code="not-onnx")
    if not model.graph.node:
        raise UserError("The model has no operators.", code="empty-model")
    return model


def _scan(data: bytes) -> str:
    """Walk the top-level fields: 'ok', 'truncated' (a field runs past the end) or 'foreign' (not ModelProto's)."""
    view, at, end, seen = memoryview(data), 0, len(data), False
    while at < end:
        tag, at = _varint(view, at)
        number, wire = tag >> 3, tag & 7
        if at < 0:
            return "truncated" if seen else "foreign"
        if number not in _TOP_FIELDS and seen:
            return "ok"  # a field of the future: protobuf skips it
        if _TOP_FIELDS.get(number) != wire:
            return "foreign"
        value, at = _varint(view, at)
        if at < 0:
            return "truncated" if seen else "foreign"
        at += value if wire == 2 else 0
        if at > end:
            return "truncated" if seen or number == 1 or number == 8 else "foreign"
        seen = True
    return "ok"


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """The varint at ``at`` and the position behind it, -1 when it does not end."""
    value = 0
    for i, byte in enumerate(view[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    return value, -1


def _check_text(graph: GraphProto) -> None:
    """UserError when a name is not UTF-8: protobuf then gives bytes where text is due."""
    names: list[object] = [t.name for t in graph.initializer]
    for info in (*graph.input, *graph.output):
        names += [info.name, *(d.dim_param for d in info.type.tensor_type.shape.dim)]
    for node in graph.node:
        names += [node.op_type, node.domain, node.name, *node.input, *node.output]
        names += [a.name for a in node.attribute] + [a.ref_attr_name for a in node.attribute]
        for inner in subgraphs(node):
            _check_text(inner)
    for name in names:
        if isinstance(name, bytes):
            raise UserError(f"A name in the model is not valid text: {name[:40]!r}.", code="invalid-model")


def _inline_functions(model: ModelProto) -> ModelProto:
    if not model.functions:
        return model
    from onnx import inliner  # rarely needed

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"The model's functions cannot be inlined: {error}.", code="invalid-model") from error


def _opset(model: ModelProto) -> int:
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        if isinstance(entry.domain, bytes):
            continue  # not text, so nothing that is supported
        if entry.domain == "ai.onnx":
            entry.domain = ""
        versions[entry.domain] = entry.version
    if "" not in versions:
        raise UserError("The model does not say which ONNX opset it uses.", code="invalid-model")
    if not OLDEST <= versions[""] <= NEWEST:
        age = "old" if versions[""] < OLDEST else "new"
        raise UserError(
            f"The model's opset {versions['']} is too {age}.",
            code=f"opset-too-{age}",
            hint=f"Opsets {OLDEST} to {NEWEST} are supported.",
        )
    return versions[""]


def _plain_domains(graph: GraphProto) -> None:
    for node in graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
        for inner in subgraphs(node):
            _plain_domains(inner)


def _check_operators(graph: GraphProto, opset: int) -> None:
    for node in graph.node:
        known = schema_of(node.op_type, "", opset) is not None if not node.domain else node.domain in _DOMAINS
        if not known:
            label = node.name or next(iter(node.output), "")
            raise unknown_operator(node.op_type, node.domain, label, opset)
        for inner in subgraphs(node):
            _check_operators(inner, opset)


def _beside(graph: GraphProto) -> tuple[str, ...]:
    """Files in which initializers are, in the order in which they are named."""
    outside = (t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL)
    entries = (entry for tensor in outside for entry in tensor.external_data)
    return tuple(dict.fromkeys(entry.value for entry in entries if entry.key == "location"))


def _take_weights(graph: GraphProto, folder: Path | None, sizes: Sizes) -> dict[str, np.ndarray]:
    if graph.sparse_initializer:
        raise UserError("Sparse initializers are not supported.", code="unsupported-type")
    arrays: dict[str, np.ndarray] = {}
    total = 0
    for tensor in graph.initializer:
        if tensor.name in arrays:
            raise UserError(f"Two initializers are called '{tensor.name}'.", code="invalid-model")
        arrays[tensor.name] = read_tensor(tensor, folder, sizes)
        total += arrays[tensor.name].nbytes
        sizes.check_constants(total, tensor.name)
    del graph.initializer[:]
    return arrays


def _keep_small_initializers(graph: GraphProto, inputs: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> None:
    kept = [i for i in graph.input if i.name in inputs]
    for name, array in arrays.items():
        if array.size <= LITERAL_LIMIT:
            graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            kept.append(helper.make_tensor_value_info(name, ELEM_TYPES[array.dtype.name], array.shape))
    del graph.input[:]
    graph.input.extend(kept)
    del graph.value_info[:]  # may be symbolic or wrong; inferred anew
