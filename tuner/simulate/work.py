"""What a workload asks of a simulated machine, as arrays: operations, bytes, buffers, shares of channels. Numpy only.

L layers, I inputs, T = I + L tensors (inputs first, then what each layer makes), C core counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.graph.costs import layer_cost
from tuner.graph.ir import Constant, Graph, Layer, Tensor
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.halo import Floats, Ints
from tuner.plan.legality import VIEWS
from tuner.simulate.spec import SimSpec

REDUCING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})  # the multiplier array's work
_BY_CHANNEL = ELEMENTWISE | {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN", "Pad"}
_FREE = VIEWS | {"Concat", "Split"}  # where they are fused, others write to the right place


@dataclass(frozen=True)
class Work:
    """A workload in numbers. Bytes are the machine's (``SimSpec.element_bytes``), not the graph's."""

    ops: Floats  # [L]
    reduced: Floats  # [L] channels that each output reduces over; 0 for layers that are not the array's work
    channels: Floats  # [L] output channels of one group
    passes: Floats  # [L] 1 for layers that fill the pipeline anew in each tile, 0 for those that ride along
    weights: Floats  # [L] bytes
    sizes: Floats  # [T] bytes
    live: NDArray[np.bool_]  # [L, T] whether a tensor's rows are on chip while a layer works
    inner: NDArray[np.bool_]  # [T] made and used up inside the block
    outputs: Ints  # layers whose tensors leave the block
    split_channels: int  # channels of the output that may be split over cores
    needed: Floats  # [T] share of a tensor's channels that one core needs at least: 1 whole, 0 its own part alone

    @staticmethod
    def of(workload: Graph, spec: SimSpec) -> Work:
        layers = workload.layers
        names = [*workload.inputs, *(x.outputs[0] for x in layers)]
        index = {name: k for k, name in enumerate(names)}
        for k, x in enumerate(layers):
            for extra in x.outputs[1:]:
                index[extra] = len(workload.inputs) + k
        shapes = [_array_shape(workload, x) for x in layers]
        leaving = sorted({index[name] - len(workload.inputs) for name in workload.outputs if name in index})
        sizes = [_bytes(workload.type_of(name), spec) for name in workload.inputs]
        sizes += [sum(_bytes(workload.tensors[o], spec) for o in x.outputs if o) for x in layers]
        inner = np.ones(len(names), bool)
        inner[: len(workload.inputs)] = False
        inner[[len(workload.inputs) + k for k in leaving]] = False
        return Work(
            ops=np.array([float(layer_cost(workload, x).ops) for x in layers]),
            reduced=np.array([s[0] for s in shapes]), channels=np.array([s[1] for s in shapes]),
            passes=np.array([float(x.op not in ELEMENTWISE and x.op not in _FREE) for x in layers]),
            weights=_weights(workload, spec), sizes=np.array(sizes), live=_live(workload, index, leaving), inner=inner,
            outputs=np.array(leaving), split_channels=min(_channels(workload, n) for n in workload.outputs),
            needed=_needed(workload, index),
        )  # fmt: skip


def _bytes(tensor: Tensor | Constant, spec: SimSpec) -> float:
    return float(tensor.elements * spec.element_bytes if tensor.dtype == "float32" else tensor.bytes)


def _weights(workload: Graph, spec: SimSpec) -> Floats:
    """Bytes of each layer's constants; one that several layers read counts for the first."""
    seen: set[str] = set()
    found = []
    for x in workload.layers:
        own = [n for n in dict.fromkeys(x.inputs) if n in workload.constants and n not in seen]
        seen.update(own)
        found.append(sum(_bytes(workload.constants[n], spec) for n in own))
    return np.array(found, dtype=float)


def _array_shape(workload: Graph, x: Layer) -> tuple[float, float]:
    """Of one group: (channels that an output reduces over, output channels); (0, 1) for layers that do not reduce."""
    if x.op not in REDUCING or x.domain:
        return 0.0, 1.0
    second = workload.type_of(x.inputs[1]).shape
    if x.op == "Conv":
        return float(second[1]), second[0] / x.attr("group", 1)
    if x.op == "ConvTranspose":
        return second[0] / x.attr("group", 1), float(second[1])
    rows, columns = (second[-2], second[-1]) if len(second) > 1 else (second[0], 1)
    if x.op == "Gemm" and x.attr("transB", 0):
        rows, columns = columns, rows
    return float(rows), float(columns)


def _live(workload: Graph, index: dict[str, int], leaving: list[int]) -> NDArray[np.bool_]:
    """[L, T]: inputs from their first reader to their last, results to their last reader.

    An elementwise layer writes over an input that nobody reads later.
    """
    inputs, layers = len(workload.inputs), workload.layers
    first = [-1] * inputs + list(range(len(layers)))
    last = [-1] * inputs + list(range(len(layers)))
    for k, x in enumerate(layers):
        for name in x.inputs:
            if name in index:
                t = index[name]
                first[t] = k if first[t] < 0 else first[t]
                last[t] = max(last[t], k)
    live = np.zeros((len(layers), len(first)), bool)
    for t in range(len(first)):
        live[max(first[t], 0) : last[t] + 1, t] = True
    for k, x in enumerate(layers):
        dying = [index[n] for n in x.inputs if n in index and last[index[n]] == k]
        same = [t for t in dying if t >= inputs and t - inputs not in leaving]
        if same and (x.op in ELEMENTWISE or x.op in VIEWS):
            live[k, same[0]] = False
    return live


def _channels(workload: Graph, name: str) -> int:
    axis = _channel_axis(workload.type_of(name).shape)
    return 1 if axis is None else workload.type_of(name).shape[axis]


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    return {0: None, 1: None, 2: 1, 3: 2}.get(len(shape), 1)


def _needed(workload: Graph, index: dict[str, int]) -> Floats:
    """[T]: what share of each tensor's channels a core needs at least that makes a part of the output's channels."""
    needed = np.zeros(max(index.values()) + 1)
    inputs = len(workload.inputs)
    for k in reversed(range(len(workload.layers))):
        x = workload.layers[k]
        out = workload.tensors[x.outputs[0]].shape
        own = needed[inputs + k]
        for name in x.inputs:
            if name in index and name in workload.tensors:
                share = _share(x, workload.tensors[name].shape, out)
                needed[index[name]] = max(needed[index[name]], own, share)
    return needed


def _share(x: Layer, shape: tuple[int, ...], out: tuple[int, ...]) -> float:
    """0 when channel k of a layer needs channel k of this input alone, 1 / groups when its group, else 1."""
    axis = _channel_axis(shape)
    if axis is None or x.domain:
        return 1.0
    if x.op == "Conv" and len(shape) >= 4:
        return 1.0 / float(x.attr("group", 1))
    if x.op in _BY_CHANNEL:
        return 0.0 if len(shape) == len(out) and shape[axis] == out[axis] else 1.0
    if x.op == "Concat":
        return 0.0
    if x.op in ("Flatten", "Reshape"):  # whole channels stay together and in order
        return 0.0 if len(shape) >= 4 and len(out) == 2 and shape[0] == out[0] else 1.0
    return 1.0
