"""A layer apart from its Graph: its signature, equal for layers that do the same, so that facts are worked out once."""

from __future__ import annotations

from typing import Any, NamedTuple

from tuner.graph.ir import Constant, Graph, Layer, Tensor

Type = tuple[str, tuple[int, ...]]  # dtype, shape
Input = tuple[bool, str, tuple[int, ...]]  # whether it is a constant, dtype, shape


class Signature(NamedTuple):
    """What a layer does, without names and weights. None stands for what is absent."""

    op: str
    domain: str
    attrs: tuple[tuple[str, Any], ...]
    inputs: tuple[Input | None, ...]
    outputs: tuple[Type | None, ...]
    opset: int


def signature(graph: Graph, layer: Layer) -> Signature:
    """The signature of ``layer``, which belongs to ``graph``."""
    inputs: list[Input | None] = []
    for name in layer.inputs:
        if name in graph.tensors:
            tensor = graph.tensors[name]
            inputs.append((False, tensor.dtype, tensor.shape))
        elif name:
            constant = graph.constants[name]
            inputs.append((True, constant.dtype, constant.shape))
        else:
            inputs.append(None)
    outputs = tuple([(graph.tensors[n].dtype, graph.tensors[n].shape) if n else None for n in layer.outputs])
    return Signature(layer.op, layer.domain, layer.attrs, tuple(inputs), outputs, graph.opset)


def alone(signed: Signature) -> Graph:
    """A Graph of this one layer: inputs i0, i1, ... by position, tensors and constants alike, and outputs t0, ..."""
    tensors, constants = {}, {}
    for k, given in enumerate(signed.inputs):
        if given is not None:
            constant, dtype, shape = given
            if constant:
                constants[f"i{k}"] = Constant(f"i{k}", shape, dtype)
            else:
                tensors[f"i{k}"] = Tensor(f"i{k}", shape, dtype)
    inputs = tuple(f"i{k}" if given is not None else "" for k, given in enumerate(signed.inputs))
    outputs = tuple(f"t{k}" if made is not None else "" for k, made in enumerate(signed.outputs))
    read = tuple(tensors)
    for name, made in zip(outputs, signed.outputs, strict=True):
        if made is not None:
            tensors[name] = Tensor(name, made[1], made[0])
    layer = Layer("l0", signed.op, inputs, outputs, signed.attrs, signed.domain)
    return Graph(read, tuple(n for n in outputs if n), (layer,), tensors, constants, signed.opset)
