"""Static shapes for a model's inputs: its own, or those the user gives. Child process only."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ValueInfoProto, helper

from tuner.errors import UserError
from tuner.graph.attrs import DTYPES


def fix_shapes(graph: GraphProto, inputs: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give every input its static shape; sizes of a named dimension hold for all inputs that use the name."""
    for name in shapes:
        if name not in inputs:
            raise UserError(
                f"The model has no input '{name}'.",
                code="unknown-input",
                hint=f"Its inputs are: {', '.join(inputs) or 'none'}.",
            )
    infos = [i for i in graph.input if i.name in inputs]
    sizes: dict[str, tuple[int, str]] = {}  # of a named dimension, and the input that says so
    for info in infos:
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
            raise UserError(f"Input '{info.name}' is of a type that is not supported.", code="unsupported-type")
        if info.name in shapes:
            _apply_shape(info, shapes[info.name], sizes)
    for info in infos:
        kind = info.type.tensor_type
        for dim in kind.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param][0]
        if not kind.HasField("shape") or any(d.dim_value <= 0 for d in kind.shape.dim):
            text = [str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in kind.shape.dim]
            example = _example(text) if kind.HasField("shape") else "1,3,224,224"
            shown = f"[{', '.join(text)}]" if kind.HasField("shape") else "unknown"
            raise UserError(
                f"Input '{info.name}' has no static shape: it is {shown}.",
                code="missing-shape",
                hint=f"Give it, for example --shape {info.name}={example}.",
            )


def _example(dims: list[str]) -> str:
    """Sizes that would do: one image of 224x224 where the input looks like images, else 1 for what is open."""
    usual = ("1", "3", "224", "224") if len(dims) == 4 else ("1",) * len(dims)
    return ",".join(d if d.isdigit() else u for d, u in zip(dims, usual, strict=True))


def _apply_shape(info: ValueInfoProto, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> None:
    kind = info.type.tensor_type
    declared = [d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in kind.shape.dim]
    fits = all(d >= 1 for d in shape)
    if kind.HasField("shape"):
        fits = fits and len(shape) == len(declared)
        fits = fits and all(isinstance(d, str) or d == s for d, s in zip(declared, shape, strict=False))
    if not fits:
        raise UserError(
            f"Shape {list(shape)} contradicts input '{info.name}', which the model declares as "
            f"[{', '.join(map(str, declared))}].",
            code="shape-contradiction",
        )
    for dim, size in zip(declared, shape, strict=False):
        if isinstance(dim, str) and dim != "?" and sizes.setdefault(dim, (size, info.name))[0] != size:
            raise UserError(
                f"Dimension '{dim}' is {sizes[dim][0]} in the shape of '{sizes[dim][1]}' but {size} in that of "
                f"'{info.name}'.",
                code="shape-contradiction",
            )
    kind.CopyFrom(helper.make_tensor_type_proto(kind.elem_type, shape).tensor_type)
