"""Attributes: ONNX AttributeProto <-> the plain, hashable, JSON-able values a Graph holds.

A tensor attribute (ConstantOfShape's ``value``) is the tuple ``("tensor", dtype, shape, flat values)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from ml_dtypes import bfloat16, float8_e4m3fn, float8_e5m2
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tuner.errors import UserError
from tuner.graph.ir import LITERAL_LIMIT, AttrValue

_EXTRA = {"bfloat16": bfloat16, "float8_e4m3fn": float8_e4m3fn, "float8_e5m2": float8_e5m2}
DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16", TensorProto.INT64: "int64", TensorProto.INT32: "int32",
    TensorProto.INT16: "int16", TensorProto.INT8: "int8", TensorProto.UINT64: "uint64", TensorProto.UINT32: "uint32",
    TensorProto.UINT16: "uint16", TensorProto.UINT8: "uint8", TensorProto.BOOL: "bool",
    TensorProto.FLOAT8E4M3FN: "float8_e4m3fn", TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.COMPLEX64: "complex64", TensorProto.COMPLEX128: "complex128",
}  # fmt: skip
ELEM_TYPES = {name: number for number, name in DTYPES.items()}
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype a Graph's dtype name stands for, bfloat16 and float8 included."""
    found: np.dtype[Any] = np.dtype(_EXTRA.get(name, name))
    return found


def from_proto(attribute: AttributeProto, where: str) -> AttrValue:
    """The value of ``attribute``; UserError when it is of a kind a Graph cannot hold. ``where`` names its node."""
    kind = attribute.type
    if kind == AttributeProto.INT:
        return int(attribute.i)
    if kind == AttributeProto.FLOAT:
        return float(attribute.f)
    if kind == AttributeProto.STRING:
        return _text(attribute.s)
    if kind == AttributeProto.INTS:
        return tuple(int(v) for v in attribute.ints)
    if kind == AttributeProto.FLOATS:
        return tuple(float(v) for v in attribute.floats)
    if kind == AttributeProto.STRINGS:
        return tuple(_text(v) for v in attribute.strings)
    if kind == AttributeProto.TENSOR and attribute.t.data_type in DTYPES:
        array = numpy_helper.to_array(attribute.t)
        if array.size <= LITERAL_LIMIT and array.dtype.kind != "c":
            return ("tensor", DTYPES[attribute.t.data_type], array.shape, tuple(array.ravel().tolist()))
    raise UserError(
        f"Attribute '{attribute.name}' of {where} is of a kind that is not supported "
        f"({AttributeProto.AttributeType.Name(kind).lower()}).",
        code="unsupported-attribute",
    )


def to_proto(name: str, value: AttrValue, schema: onnx.defs.OpSchema | None) -> AttributeProto:
    """The AttributeProto of a Graph's attribute; ``schema`` tells an empty list's kind and ints from floats."""
    if isinstance(value, tuple) and len(value) == 4 and value[0] == "tensor" and isinstance(value[2], tuple):
        array = np.array(value[3], dtype=numpy_dtype(value[1])).reshape(value[2])
        return helper.make_attribute(name, numpy_helper.from_array(array))
    kind = int(schema.attributes[name].type.value) if schema is not None and name in schema.attributes else None
    if isinstance(value, str):
        return _bytes_attribute(name, [value], AttributeProto.STRING)
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return _bytes_attribute(name, list(value), AttributeProto.STRINGS)
    return helper.make_attribute(name, list(value) if isinstance(value, tuple) else value, attr_type=kind)


def _bytes_attribute(name: str, values: list[str], kind: AttributeProto.AttributeType) -> AttributeProto:
    raw = [v.encode("utf-8", "surrogateescape") for v in values]
    return helper.make_attribute(name, raw[0] if kind == AttributeProto.STRING else raw, attr_type=kind)


def _text(raw: bytes) -> str:
    # Not UTF-8 is legal for ONNX; surrogates survive JSON and turn back into the same bytes.
    return raw.decode("utf-8", "surrogateescape")
