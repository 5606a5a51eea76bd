"""Rows of features of blocks for the cost model: what each layer does, and the exact geometry of dividing it.

Nothing here depends on knobs: a row stands for a block on so many cores, as well as its template can run it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np

from cost_model.block_features import COLUMNS, INDEX, BlockArrays, LayerFacts, feature_rows
from cost_model.machine import Machine
from tuner.graph.costs import layer_cost
from tuner.graph.ir import Graph, Layer, Tensor
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.halo import Halo
from tuner.plan.layout import PLAIN, is_narrow
from tuner.plan.legality import VIEWS
from tuner.simulate.spec import load
from tuner.types import Device

TEMPLATES = ("simulated", "imported", "view", "conv2d", "conv2d_pool", "depthwise", "dense", "matmul", "pool",
             "elementwise", "concat", "channels", "lrn", "softmax", "winograd", "conv_chain",
             "inverted_residual", "conv2d_shuffle", "conv2d_rows", "design")  # fmt: skip
_CHANNELWISE = (
    ELEMENTWISE | VIEWS | {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "Concat"}
)


def block_rows(
    workload: Graph, cores: Sequence[int], device: Device, *, layouts: Mapping[str, str] | None = None,
    template: str = "simulated",
) -> np.ndarray:  # fmt: skip
    """``[len(cores), len(COLUMNS)]``: one row of ``cost_model.block_features`` per core count.

    Args:
        layouts: by the workload's tensor names; what is not named is plain.
        device: only its lanes count here; its sizes and rates are in the Machine (see ``machine_of``).
    """
    narrow = narrow_names(layouts or {})
    return variant_rows(plain_rows(workload, cores, device, narrow), workload, layouts, template)


def variant_rows(
    rows: np.ndarray, workload: Graph, layouts: Mapping[str, str] | None, template: str
) -> np.ndarray:  # fmt: skip
    """Rows of the same workload with other layouts and by another template; only two columns tell of those.

    Unless numbers are stored in other types, which ``plain_rows`` is told.
    """
    rows = rows.copy()
    rows[:, INDEX["layout"]] = _blocked(workload, layouts) if layouts else 0.0
    rows[:, INDEX["template"]] = TEMPLATES.index(template) if template in TEMPLATES else len(TEMPLATES)
    return rows


def narrow_names(layouts: Mapping[str, str]) -> frozenset[str]:
    """Those of the tensors that are stored as bfloat16."""
    return frozenset(name for name, layout in layouts.items() if is_narrow(layout))


def plain_rows(
    workload: Graph, cores: Sequence[int], device: Device, narrow: frozenset[str] = frozenset()
) -> np.ndarray:  # fmt: skip
    """``block_rows`` of a workload on a simulated device, where all is plain; tensors in ``narrow`` in two bytes."""
    return every_plain_rows([(workload, narrow)], cores, device)[0]


def every_plain_rows(
    blocks: Sequence[tuple[Graph, frozenset[str]]], cores: Sequence[int], device: Device
) -> np.ndarray:  # fmt: skip
    """``plain_rows`` of many workloads, each with what is narrow in it; those that are alike in size are done together.

    ``[len(blocks), len(cores), len(COLUMNS)]``.
    """
    facts = [_BlockFacts.of(workload, cores, device, narrow) for workload, narrow in blocks]
    alike: dict[Any, list[int]] = {}
    for number, block in enumerate(facts):
        alike.setdefault((block.amounts.shape, block.read.shape), []).append(number)
    rows, machine = np.empty((len(facts), len(cores), len(COLUMNS))), known_machine(device)
    for numbers in alike.values():
        stacked = {f.name: np.stack([getattr(facts[n], f.name) for n in numbers]) for f in fields(_BlockFacts)}
        rows[numbers] = feature_rows(
            BlockArrays(
                cores=np.array(cores, dtype=np.float64), lanes=device.lanes, both_ways=machine.both_ways,
                balance=machine.core_balance, vector_cost=machine.vector_cost, **stacked,
            )
        )  # fmt: skip
    return rows


@dataclass(frozen=True)
class _BlockFacts:
    """What ``BlockArrays`` holds of one block."""

    amounts: np.ndarray
    parts: np.ndarray
    inside: np.ndarray
    computed: np.ndarray
    tallest: np.ndarray
    overlap: np.ndarray
    inputs: np.ndarray
    input_parts: np.ndarray
    read: np.ndarray
    read_tallest: np.ndarray
    output_bytes: float
    weight_bytes: float
    rows: float
    out_channels: float

    @staticmethod
    def of(workload: Graph, cores: Sequence[int], device: Device, narrow: frozenset[str]) -> _BlockFacts:
        halo = Halo(workload)
        most = min(max(cores), halo.output_rows)
        bands = halo.split(np.array([*range(1, most + 1), 2]))  # the last: what one more band costs
        tensors, leaving = workload.tensors, set(workload.outputs)
        parts, input_parts = _parts(workload)
        return _BlockFacts(
            amounts=np.array([_amounts(workload, layer, device.lanes) for layer in workload.layers]),
            parts=np.array(parts),
            inside=np.array(
                [
                    leaving.isdisjoint(layer.outputs) and (device.simulated or not _stays_in_registers(workload, layer))
                    for layer in workload.layers
                ]
            ),
            computed=bands.ratio[:, :-1],
            tallest=bands.busiest[:, :-1] / halo.rows[:, None],
            overlap=bands.ratio[:, -1] - 1.0,
            inputs=np.array([float(tensors[n].bytes) / (1 + (n in narrow)) for n in workload.inputs]),
            input_parts=np.array(input_parts),
            read=bands.read[:, :-1],
            read_tallest=bands.read_busiest[:, :-1] / halo.input_rows[:, None],
            output_bytes=float(sum([tensors[n].bytes / (1 + (n in narrow)) for n in workload.outputs])),
            weight_bytes=float(sum([c.bytes for c in workload.constants.values()])),
            rows=halo.output_rows,
            out_channels=_channels(tensors[workload.outputs[0]].shape),
        )


def stacked_rows(found: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of several blocks one after the other; ``[0, len(COLUMNS)]`` for none."""
    return np.concatenate(found) if found else np.zeros((0, len(COLUMNS)))


def machine_of(device: Device, peak_flops: float | None = None, bandwidth: float | None = None) -> Machine:
    """What the cost model is told about a device: measured figures if given, else specified ones, else rough guesses.

    Simulated devices are told what their specification says, as a data sheet would; sizes and rates are in bytes of
    float32 numbers, which the graphs hold, whatever the device computes in.
    """
    if device.simulated:
        return known_machine(device)
    bandwidth = bandwidth or 20e9
    peak_flops = peak_flops or device.cores * device.lanes * 4 * 2.5e9  # two units of multiply-adds at 2.5 GHz
    return Machine(
        cores=device.cores,
        peak_flops=peak_flops,
        vector_flops=peak_flops / 4,
        bandwidth=bandwidth,
        core_bandwidth=bandwidth if device.cores == 1 else bandwidth * 0.6,
        core_memory=float(device.l2),
        shared_memory=float(device.l3),
    )


@lru_cache(maxsize=32)
def known_machine(device: Device) -> Machine:
    """What is known of a device without measuring; the same for all rows of it, so that they can be compared."""
    if not device.simulated:
        return machine_of(device)
    spec = load(device.name)
    scale = 4 / spec.element_bytes
    return Machine(
        cores=spec.cores,
        peak_flops=spec.peak,
        vector_flops=spec.cores * spec.core_vector_peak,
        bandwidth=spec.bandwidth * scale,
        core_bandwidth=spec.core_bandwidth * scale,
        core_memory=spec.core_memory * scale,
        shared_memory=spec.shared_memory * scale,
        both_ways=False,
    )


def _amounts(graph: Graph, layer: Layer, lanes: int) -> tuple[float, ...]:
    """What the layer adds to its block's features; computed once for equal layers of whatever graphs."""
    types = (*layer.inputs, *layer.outputs)
    key = (lanes, layer.op, layer.domain, layer.attrs, *[graph.type_of(n).shape if n else None for n in types])
    found = _KNOWN.get(key)
    if found is None:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        found = _KNOWN[key] = _layer_facts(graph, layer).amounts(lanes)
    return found


_KNOWN: dict[Any, tuple[float, ...]] = {}
_MOST = 16384


def _layer_facts(graph: Graph, layer: Layer) -> LayerFacts:
    cost = layer_cost(graph, layer)
    shape = graph.tensors[next(n for n in layer.outputs if n)].shape
    weights = graph.type_of(layer.inputs[1]).shape if cost.macs else ()
    kernel = layer.attr("kernel_shape") or (weights[2:] if layer.op == "Conv" else ())
    return LayerFacts(
        ops=float(cost.ops),
        mac=cost.macs > 0,
        depthwise=layer.op == "Conv" and layer.attr("group", 1) > 1 and weights[1] == 1,
        window=any(k > 1 for k in kernel),
        summed=cost.macs / prod(shape) / prod(weights[2:]) if cost.macs else 0.0,
        channels=float(_channels(shape)),
        bytes=float(cost.bytes_written),
        weights=float(sum([graph.constants[n].bytes for n in dict.fromkeys(layer.inputs) if n in graph.constants])),
    )


def _stays_in_registers(graph: Graph, layer: Layer) -> bool:
    """Whether a kernel of ours computes what this layer makes only in passing: elementwise layers alone read it."""
    return all(x.op in ELEMENTWISE or x.op in VIEWS for o in layer.outputs if o for x in graph.consumers.get(o, ()))


def _channels(shape: tuple[int, ...]) -> int:
    return (shape[1] if len(shape) > 2 else shape[-1]) if shape else 1


def _parts(workload: Graph) -> tuple[list[float], list[float]]:
    """Into how many parts the channels of each layer, and of each input, divide when those of the output are divided.

    A layer that mixes all channels needs all of its inputs' (1 part), a grouped convolution those of its groups.
    """
    most = dict.fromkeys((*workload.inputs, *workload.tensors), inf)
    found = []
    for layer in reversed(workload.layers):
        own = min(most[n] for n in layer.outputs if n)
        found.append(own)
        reach = 1.0
        if layer.op == "Conv":
            reach = float(layer.attr("group", 1))
        elif layer.op in _CHANNELWISE:
            reach = inf
        for n in layer.inputs:
            if n in most:
                most[n] = min(most[n], own, reach)
    return found[::-1], [most[n] for n in workload.inputs]


def _blocked(workload: Graph, layouts: Mapping[str, str]) -> float:
    """The share of the bytes read and written that lie blocked by channels."""
    whole = float(sum(workload.tensors[n].bytes for n in (*workload.inputs, *workload.outputs)))
    named: list[Tensor] = [workload.tensors[n] for n, v in layouts.items() if v != PLAIN and n in workload.tensors]
    return float(sum(t.bytes for t in named)) / max(whole, 1.0)
