"""The Graph: fusetune's own frozen picture of a cleaned model. Knows no TVM and no ONNX.

A Graph holds shapes, attributes and small literal values; the arrays behind its constants travel beside it as a plain
``dict[str, numpy.ndarray]``. The same type, with canonical names, is a *workload*: see ``tuner.plan.workload``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

AttrValue = Any  # int | float | str | tuple of these


@dataclass(frozen=True)
class Tensor:
    """A value that flows between layers; shapes are static, dtype is a numpy name."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Constant:
    """A weight or a literal.

    ``value`` is the flat tuple of numbers when the constant is part of the computation's meaning (any integer or bool
    tensor of at most LITERAL_LIMIT elements, any single number); None when only its shape matters. ``digest`` is the
    SHA-256 of the array's bytes, "" in workloads, where weights are interchangeable.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    digest: str = ""
    value: tuple[float | int | bool, ...] | None = None

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * _ITEM_BYTES[self.dtype]


LITERAL_LIMIT = 1024  # elements; larger integer tables are data, not meaning


@dataclass(frozen=True)
class Layer:
    """One operator. ``op`` is the ONNX operator name; ``attrs`` are sorted pairs; an absent optional input is ""."""

    id: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: tuple[tuple[str, AttrValue], ...] = ()
    domain: str = ""

    def attr(self, name: str, default: AttrValue = None) -> AttrValue:
        for key, value in self.attrs:
            if key == name:
                return value
        return default


@dataclass(frozen=True)
class Graph:
    """A cleaned model: layers in topological order, every tensor's static shape known.

    ``inputs`` and ``outputs`` name tensors. ``opset`` gives the version of the ONNX operators' meaning.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)
    constants: Mapping[str, Constant] = field(repr=False)
    opset: int = 17

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON: equal for equal computations with equal weights."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def by_id(self) -> Mapping[str, Layer]:
        return {layer.id: layer for layer in self.layers}

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Layer id -> index in topological order."""
        return {layer.id: i for i, layer in enumerate(self.layers)}

    @cached_property
    def producer(self) -> Mapping[str, Layer]:
        """Tensor name -> the layer that writes it (graph inputs have none)."""
        return {out: layer for layer in self.layers for out in layer.outputs if out}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Layer, ...]]:
        """Tensor name -> the layers that read it, each once, in order."""
        found: dict[str, list[Layer]] = {name: [] for name in self.tensors}
        for layer in self.layers:
            for name in dict.fromkeys(layer.inputs):
                if name in found:
                    found[name].append(layer)
        return {name: tuple(layers) for name, layers in found.items()}

    @cached_property
    def notes(self) -> dict[Any, Any]:
        """What others found out about this Graph and keep with it, so that it is found out once; keys are theirs."""
        return {}

    def type_of(self, name: str) -> Tensor | Constant:
        """The tensor or constant called ``name``. Raises KeyError when there is none."""
        return self.tensors[name] if name in self.tensors else self.constants[name]

    def is_constant(self, name: str) -> bool:
        return name in self.constants

    def to_json(self) -> dict[str, Any]:
        return {
            "opset": self.opset,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "layers": [
                {
                    "id": x.id,
                    "op": x.op,
                    "inputs": list(x.inputs),
                    "outputs": list(x.outputs),
                    "attrs": {k: _jsonable(v) for k, v in x.attrs},
                    **({"domain": x.domain} if x.domain else {}),
                }
                for x in self.layers
            ],
            "tensors": {t.name: [t.dtype, list(t.shape)] for t in self.tensors.values()},
            "constants": {
                c.name: {
                    "dtype": c.dtype,
                    "shape": list(c.shape),
                    **({"digest": c.digest} if c.digest else {}),
                    **({"value": list(c.value)} if c.value is not None else {}),
                }
                for c in self.constants.values()
            },
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Graph:
        return Graph(
            inputs=tuple(data["inputs"]),
            outputs=tuple(data["outputs"]),
            layers=tuple(
                Layer(
                    x["id"],
                    x["op"],
                    tuple(x["inputs"]),
                    tuple(x["outputs"]),
                    freeze_attrs(x["attrs"]),
                    x.get("domain", ""),
                )
                for x in data["layers"]
            ),
            tensors={n: Tensor(n, tuple(shape), dtype) for n, (dtype, shape) in data["tensors"].items()},
            constants={
                n: Constant(
                    n,
                    tuple(c["shape"]),
                    c["dtype"],
                    c.get("digest", ""),
                    tuple(c["value"]) if "value" in c else None,
                )
                for n, c in data["constants"].items()
            },
            opset=data["opset"],
        )


def freeze_attrs(attrs: Mapping[str, AttrValue] | Iterable[tuple[str, AttrValue]]) -> tuple[tuple[str, AttrValue], ...]:
    """Attributes as sorted, hashable pairs (lists become tuples)."""
    return tuple(sorted((k, _frozen(v)) for k, v in dict(attrs).items()))


def _frozen(value: AttrValue) -> AttrValue:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _jsonable(value: AttrValue) -> Any:
    return [_jsonable(v) for v in value] if isinstance(value, tuple) else value


_ITEM_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2,
    "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "complex64": 8,
    "complex128": 16, "object": 8,
}  # fmt: skip
