"""What a workload asks of a simulated machine, as arrays: operations, bytes, buffers, shares of channels. Numpy only.

L layers, I inputs, T = I + L tensors (inputs first, then what each layer makes), C core counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tuner.graph.costs import layer_cost
from tuner.graph.ir import Constant, Graph, Layer, Tensor
from tuner.plan.alone import Signature, alone
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.halo import Floats, Ints
from tuner.plan.legality import VIEWS
from tuner.simulate.spec import SimSpec

REDUCING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})  # the multiplier array's work
_BY_CHANNEL = ELEMENTWISE | {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN", "Pad"}
_FREE = VIEWS | {"Concat", "Split", "Slice"}  # where they are fused, others write to the right place


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
    def of(workload: Graph, signatures: Sequence[Signature], spec: SimSpec) -> Work:
        """``signatures`` are those of the workload's layers (``Halo.signatures``)."""
        facts = [_facts(signed, spec.element_bytes) for signed in signatures]
        inputs = len(workload.inputs)
        index = {name: k for k, name in enumerate(workload.inputs)}
        for k, x in enumerate(workload.layers):
            index |= dict.fromkeys(x.outputs, inputs + k)
        leaving = sorted({index[name] - inputs for name in workload.outputs})
        sizes = [_bytes(workload.tensors[name], spec.element_bytes) for name in workload.inputs]
        inner = np.ones(inputs + len(facts), bool)
        inner[[*range(inputs), *(inputs + k for k in leaving)]] = False
        return Work(
            ops=np.array([f.ops for f in facts]), reduced=np.array([f.reduced for f in facts]),
            channels=np.array([f.channels for f in facts]), passes=np.array([f.passes for f in facts]),
            weights=_weights(workload, facts), sizes=np.array(sizes + [f.made for f in facts]),
            live=_live(workload, index, leaving), inner=inner, outputs=np.array(leaving),
            split_channels=min(_channels(workload.tensors[n].shape) for n in workload.outputs),
            needed=_needed(workload, facts, index),
        )  # fmt: skip


@dataclass(frozen=True)
class _Facts:
    """One layer, apart from its graph."""

    ops: float
    reduced: float
    channels: float
    passes: float
    made: float  # bytes of its outputs
    constants: tuple[float, ...]  # bytes of each input that is a constant, 0 for the others
    shares: tuple[float, ...]  # of each input's channels that one channel of the output needs: 0 its own, 1 all


@lru_cache(maxsize=4096)
def _facts(signed: Signature, element_bytes: int) -> _Facts:
    graph = alone(signed)
    (x,) = graph.layers
    reduced, channels = _array_shape(graph, x)
    out = graph.tensors[x.outputs[0]].shape
    constants = [_bytes(graph.constants[n], element_bytes) if n in graph.constants else 0.0 for n in x.inputs]
    shares = [_share(x, graph.tensors[n].shape, out) if n in graph.tensors else 0.0 for n in x.inputs]
    return _Facts(
        float(layer_cost(graph, x).ops), reduced, channels, float(x.op not in ELEMENTWISE and x.op not in _FREE),
        sum(_bytes(graph.tensors[n], element_bytes) for n in x.outputs if n), tuple(constants), tuple(shares),
    )  # fmt: skip


def _bytes(tensor: Tensor | Constant, element_bytes: int) -> float:
    return float(tensor.elements * element_bytes if tensor.dtype == "float32" else tensor.bytes)


def _weights(workload: Graph, facts: Sequence[_Facts]) -> Floats:
    """Bytes of each layer's constants; one that several layers read counts for the first."""
    found, seen = np.zeros(len(facts)), set()
    for k, (x, f) in enumerate(zip(workload.layers, facts, strict=True)):
        for name, size in zip(x.inputs, f.constants, strict=True):
            if size and name not in seen:
                seen.add(name)
                found[k] += size
    return found


def _array_shape(graph: Graph, x: Layer) -> tuple[float, float]:
    """Of one group: (channels that an output reduces over, output channels); (0, 1) for layers that do not reduce."""
    if x.op not in REDUCING or x.domain:
        return 0.0, 1.0
    second = graph.type_of(x.inputs[1]).shape
    if x.op == "Conv":
        return float(second[1]), second[0] / x.attr("group", 1)
    if x.op == "ConvTranspose":
        return second[0] / x.attr("group", 1), float(second[1])
    rows, columns = (second[-2], second[-1]) if len(second) > 1 else (second[0], 1)
    if x.op == "Gemm" and x.attr("transB", 0):
        rows, columns = columns, rows
    return float(rows), float(columns)


def _live(workload: Graph, index: Mapping[str, int], leaving: Sequence[int]) -> NDArray[np.bool_]:
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


def _channels(shape: tuple[int, ...]) -> int:
    axis = _channel_axis(shape)
    return 1 if axis is None else shape[axis]


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    return {0: None, 1: None, 2: 1, 3: 2}.get(len(shape), 1)


def _needed(workload: Graph, facts: Sequence[_Facts], index: Mapping[str, int]) -> Floats:
    """[T]: what share of each tensor's channels a core needs at least that makes a part of the output's channels."""
    inputs = len(workload.inputs)
    needed = [0.0] * (inputs + len(facts))
    for k in reversed(range(len(facts))):
        own = needed[inputs + k]
        for name, share in zip(workload.layers[k].inputs, facts[k].shares, strict=True):
            if name in index:
                t = index[name]
                needed[t] = max(needed[t], own, share)
    return np.array(needed)


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
