"""Static shapes for a model's inputs: its own, or those the user gives. Child process only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto, helper

from tuner.errors import UserError
from tuner.graph.attrs import DTYPES
from tuner.graph.open_shapes import Dims, resolve


def declared_shapes(graph: GraphProto, inputs: Sequence[str]) -> dict[str, Dims | None]:
    """What the file says of the shape of each of ``inputs``. Raises UserError for one that is no tensor of ours."""
    found: dict[str, Dims | None] = {}
    for info in graph.input:
        if info.name not in inputs:
            continue
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
            raise UserError(f"Input '{info.name}' is of a type that is not supported.", code="unsupported-type")
        dims = [d.dim_value if d.dim_value > 0 else d.dim_param or None for d in kind.shape.dim]
        found[info.name] = dims if kind.HasField("shape") else None
    return found


def fix_shapes(graph: GraphProto, declared: Mapping[str, Dims | None], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give every input its static shape, see open_shapes.resolve."""
    resolved = resolve(declared, shapes)
    for info in graph.input:
        if info.name in resolved:
            kind = info.type.tensor_type
            kind.CopyFrom(helper.make_tensor_type_proto(kind.elem_type, resolved[info.name]).tensor_type)
