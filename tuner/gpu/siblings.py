"""Matrix products and 1x1 convolutions that read the same tensor, as one wider product whose parts are Slices.

On a GPU a Slice is a kernel of its own unless it goes into one that moves numbers anyway: the Transpose behind each of
the three products of an attention, or a Concat. What is merged is what should take less time then, by the roofline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np

from tuner.gpu.estimate import LAUNCH
from tuner.gpu.precision import FP16, FP32, TF32
from tuner.gpu.sidebyside import FORK
from tuner.gpu.spec import GpuSpec
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.plan.legality import VIEWS

TILE = 64  # rows and columns of a product that one block computes, assumed
_UNARY = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Mish"})
_MOVING = frozenset({"Transpose", "Concat"})  # a Slice in front of them is part of their kernel
_OPSET = 10  # from which the bounds of a Slice are inputs
_FLAT_CONV = {"group": 1, "kernel_shape": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "auto_pad": "NOTSET"}

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Sibling:
    """A product with constant weights, and what is elementwise behind it and can be done for all siblings at once."""

    product: Layer
    bias: str  # the constant that is added, [columns]; "" where there is none
    tail: tuple[Layer, ...]  # the Add of the bias, an activation
    rows: int
    columns: int
    inner: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.product, *self.tail)

    @property
    def out(self) -> str:
        return self.layers[-1].outputs[0]


def merge_siblings(graph: Graph, weights: Weights, spec: GpuSpec, precision: str = FP32) -> tuple[Graph, Weights]:
    """The model with those merged that should take less time; with its own weights where nothing is.

    Layers keep their order; the merged layer has the first one's id, and Slices those of the products they stand for.
    """
    if graph.opset < _OPSET:
        return graph, weights
    groups: dict[Any, list[_Sibling]] = {}
    for layer in graph.layers:
        if sibling := _sibling(graph, weights, layer):
            acts = [(x.op, x.attrs) for x in sibling.tail]
            key = layer.op, layer.inputs[0], layer.attrs, bool(sibling.bias), len(layer.inputs), tuple(acts)
            groups.setdefault(key, []).append(sibling)
    chosen = [group for group in groups.values() if len(group) > 1 and gain(graph, group, spec, precision) > 0]
    if not chosen:
        return graph, weights
    arrays, tensors, constants = dict(weights), dict(graph.tensors), dict(graph.constants)
    replaced: dict[str, list[Layer]] = {}
    for group in chosen:
        replaced |= {layer.id: [] for sibling in group for layer in sibling.layers}
        replaced[group[0].product.id] = _merged(group, arrays, tensors, constants)
    layers = tuple(new for layer in graph.layers for new in replaced.get(layer.id, [layer]))
    read = {name for layer in layers for name in layer.inputs}
    kept = {name: constant for name, constant in constants.items() if name in read or name in graph.outputs}
    return replace(graph, layers=layers, tensors=tensors, constants=kept), arrays


def gain(graph: Graph, group: Sequence[_Sibling], spec: GpuSpec, precision: str = FP32) -> float:
    """Seconds that merging should save, against the faster of one after the other and side by side."""
    size = 2 if precision == FP16 else 4
    peak = {FP16: spec.tensor_fp16, TF32: spec.tensor_tf32}.get(precision, spec.peak)
    first = group[0]

    def seconds(columns: int) -> float:
        blocks = ceil(first.rows / TILE) * ceil(columns / TILE)
        computing = ceil(blocks / spec.sms) * TILE * TILE * 2 * first.inner / (peak / spec.sms)
        moved = (first.rows * first.inner + columns * first.inner + first.rows * columns) * size
        return LAUNCH + max(computing, moved / spec.bandwidth)

    each = [seconds(s.columns) for s in group]
    blocks = sum(ceil(s.rows / TILE) * ceil(s.columns / TILE) for s in group)
    apart = min(sum(each), max(each) + FORK) if blocks <= spec.sms else sum(each)
    slices = sum(
        LAUNCH + 2 * s.rows * s.columns * size / spec.bandwidth for s in group if not _is_free(graph, s.out)
    )  # fmt: skip
    return apart - seconds(sum(s.columns for s in group)) - slices


def _is_free(graph: Graph, tensor: str) -> bool:
    """Whether all that read a tensor, past views of it, move it in kernels of their own."""
    readers = graph.consumers[tensor]
    return bool(readers) and tensor not in graph.outputs and all(
        reader.op in _MOVING or (reader.op in VIEWS and _is_free(graph, reader.outputs[0])) for reader in readers
    )  # fmt: skip


def _sibling(graph: Graph, weights: Weights, layer: Layer) -> _Sibling | None:
    """The layer as one that may be merged with others."""
    if layer.domain or layer.op not in {"MatMul", "Conv"} or layer.inputs[0] not in graph.tensors:
        return None
    if layer.inputs[1] not in weights or any(n and n not in weights for n in layer.inputs[2:]):
        return None
    kind, weight = graph.tensors[layer.outputs[0]], weights[layer.inputs[1]]
    if kind.dtype != "float32" or weight.dtype != np.float32 or layer.outputs[0] in graph.outputs:
        return None
    bias, tail = "", []
    if layer.op == "Conv":
        flat = all(layer.attr(name, usual) == usual for name, usual in _FLAT_CONV.items())
        if weight.ndim != 4 or weight.shape[2:] != (1, 1) or not flat:
            return None
        bias = layer.inputs[2] if len(layer.inputs) > 2 else ""
        columns, inner = weight.shape[:2]
    else:
        if weight.ndim != 2 or len(kind.shape) < 2:
            return None
        inner, columns = weight.shape
        if (reader := _only_reader(graph, layer)) and reader.op == "Add":
            other = next((n for n in reader.inputs if n != layer.outputs[0]), "")
            if other in weights and weights[other].shape == (columns,):
                bias, tail = other, [reader]
    if (reader := _only_reader(graph, (tail or [layer])[-1])) and reader.op in _UNARY and not reader.domain:
        tail.append(reader)
    found = _Sibling(layer, bias, tuple(tail), prod(kind.shape) // columns, columns, inner)
    return None if found.out in graph.outputs else found


def _only_reader(graph: Graph, layer: Layer) -> Layer | None:
    readers = graph.consumers[layer.outputs[0]]
    return readers[0] if len(readers) == 1 and layer.outputs[0] not in graph.outputs else None


def _merged(
    group: Sequence[_Sibling], arrays: dict[str, np.ndarray], tensors: dict[str, Tensor],
    constants: dict[str, Constant],
) -> list[Layer]:  # fmt: skip
    """One product, what is behind it, and a Slice for each sibling; enters what they need."""
    first, name = group[0], f"{group[0].product.outputs[0]}_merged"
    axis = 1 if first.product.op == "Conv" else len(tensors[first.out].shape) - 1
    total = sum(s.columns for s in group)

    def constant(what: str, array: np.ndarray) -> str:
        value = tuple(int(v) for v in array) if array.dtype.kind == "i" else None
        arrays[f"{name}_{what}"] = array
        constants[f"{name}_{what}"] = Constant(f"{name}_{what}", array.shape, str(array.dtype), value=value)
        return f"{name}_{what}"

    def tensor(what: str) -> str:
        shape = tensors[first.out].shape
        tensors[f"{name}{what}"] = Tensor(f"{name}{what}", (*shape[:axis], total, *shape[axis + 1 :]))
        return f"{name}{what}"

    columns = 0 if first.product.op == "Conv" else 1
    weight = constant("weights", np.concatenate([arrays[s.product.inputs[1]] for s in group], axis=columns))
    bias = constant("bias", np.concatenate([arrays[s.bias] for s in group])) if first.bias else ""
    behind = [bias] if bias and first.product.op == "Conv" else []
    last = tensor("")
    made = [replace(first.product, inputs=(first.product.inputs[0], weight, *behind), outputs=(last,))]
    for number, layer in enumerate(first.tail):
        added = (bias,) if layer.op == "Add" else ()
        out = tensor(f"_{number}")
        made.append(replace(layer, inputs=(last, *added), outputs=(out,)))
        last = out
    ends = np.cumsum([s.columns for s in group])
    along = constant("axis", np.array([axis]))
    for number, (sibling, end) in enumerate(zip(group, ends, strict=True)):
        start = constant(f"start{number}", np.array([end - sibling.columns]))
        stop = constant(f"end{number}", np.array([end]))
        inputs = (last, start, stop, along)
        made.append(Layer(f"{sibling.product.id}_part", "Slice", inputs, (sibling.out,), freeze_attrs({})))
    return made
