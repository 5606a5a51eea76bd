"""The mutable graph that cleaning passes edit: nodes, numpy arrays for constants, static types. Child process only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx

from tuner.errors import UserError
from tuner.graph.attrs import DTYPES, numpy_dtype
from tuner.graph.ir import AttrValue


@dataclass(frozen=True)
class Type:
    """A tensor's dtype (numpy name) and static shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * numpy_dtype(self.dtype).itemsize


@dataclass(eq=False)
class Node:
    """One operator. ``label`` is what users call it in messages; ``graphs`` are subgraph attributes (If, Loop)."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, AttrValue] = field(default_factory=dict)
    domain: str = ""
    label: str = ""
    graphs: dict[str, onnx.GraphProto] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """How an error names this node."""
        return f"node '{self.label or self.outputs[0]}' ({self.op})"

    def input(self, index: int) -> str:
        """Name of input ``index``, "" when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def attr(self, name: str, default: AttrValue = None) -> AttrValue:
        return self.attrs.get(name, default)

    def only_output(self) -> bool:
        """True when no optional further output is asked for."""
        return not any(self.outputs[1:])


@dataclass(frozen=True)
class Sizes:
    """What constants and tensors may weigh, in bytes; both are refused before they are allocated."""

    tensor: int  # any single tensor
    constants: int  # all constants together

    def check_tensor(self, name: str, kind: Type) -> None:
        """UserError when a tensor is above the limit."""
        if kind.bytes > self.tensor:
            raise UserError(
                f"Tensor '{name}' of shape {list(kind.shape)} and type {kind.dtype} is larger than the limit of "
                f"{self.tensor:,} bytes.",
                code="tensor-too-large",
            )

    def check_constants(self, total: int, name: str) -> None:
        """UserError when the constants up to ``name`` weigh too much."""
        if total > self.constants:
            raise UserError(
                f"The model's constants up to '{name}' exceed the limit of {self.constants:,} bytes.",
                code="tensor-too-large",
            )


@dataclass(eq=False)
class Work:
    """A model while it is cleaned. ``arrays`` are constants, ``types`` the static types of all other tensors.

    ``known`` holds small values of non-constant tensors that inference found out (shapes, mostly).
    """

    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    arrays: dict[str, np.ndarray]
    types: dict[str, Type]
    opset: int
    sizes: Sizes
    known: dict[str, np.ndarray] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def type_of(self, name: str) -> Type:
        array = self.arrays.get(name)
        return Type(array.dtype.name, array.shape) if array is not None else self.types[name]

    def value(self, name: str) -> np.ndarray | None:
        """The value of a constant, or of a tensor whose value inference found out."""
        array = self.arrays.get(name)
        return array if array is not None else self.known.get(name)

    def uses(self) -> Counter[str]:
        """How often each tensor is read, by nodes or as a graph output."""
        count = Counter(name for node in self.nodes for name in node.inputs if name)
        count.update(self.outputs)
        return count

    def producers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs if name}

    def fresh(self, stem: str) -> str:
        """A tensor name that nothing has yet."""
        if not self._taken:
            self._taken.update(self.arrays, self.types, self.inputs, self.outputs)
            self._taken.update(name for node in self.nodes for name in node.outputs)
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}__{number}"
        self._taken.add(name)
        return name

    def add_constant(self, stem: str, array: np.ndarray) -> str:
        """Store ``array`` under a new name made from ``stem``."""
        name = self.fresh(stem)
        self.arrays[name] = array
        return name

    def new_tensor(self, stem: str, dtype: str, shape: Iterable[int]) -> str:
        name = self.fresh(stem)
        self.types[name] = Type(dtype, tuple(int(d) for d in shape))
        return name

    def rename_uses(self, names: Mapping[str, str]) -> None:
        """Let every reader of a key read its value instead; chains are followed. Graph outputs keep their names."""
        if not names:
            return

        def final(name: str) -> str:
            while name in names:
                name = names[name]
            return name

        for node in self.nodes:
            node.inputs = [final(name) for name in node.inputs]

    def bypass(self, nodes: Mapping[int, str]) -> None:
        """Remove nodes (by id()) whose first output equals the tensor given, which is one of their inputs.

        A node that writes a graph output goes only when its source can take over that name; else it stays.
        """
        producers = self.producers()
        gone: set[int] = set()
        names: dict[str, str] = {}

        def final(name: str) -> str:
            while name in names:
                name = names[name]
            return name

        for node in self.nodes:
            if id(node) not in nodes:
                continue
            out, source = node.outputs[0], final(nodes[id(node)])
            if out in self.outputs:
                maker = producers.get(source)
                if maker is None or source in self.outputs:
                    continue
                maker.outputs = [out if name == source else name for name in maker.outputs]
                producers[out] = maker
                names[source] = out
            else:
                names[out] = source
            gone.add(id(node))
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self.rename_uses(names)


def static_type(proto: onnx.TypeProto) -> Type | None:
    """The static type in a TypeProto; None when a dimension, the rank or the element type is unknown."""
    if not proto.HasField("tensor_type") or proto.tensor_type.elem_type not in DTYPES:
        return None
    if not proto.tensor_type.HasField("shape"):
        return None
    dims: list[Any] = [d.dim_value if d.HasField("dim_value") else None for d in proto.tensor_type.shape.dim]
    if any(d is None or d < 0 for d in dims):
        return None
    return Type(DTYPES[proto.tensor_type.elem_type], tuple(dims))
