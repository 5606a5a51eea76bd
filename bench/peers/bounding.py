"""What bounds a model's time: for the whole, and by kinds of kernels of a tuned plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.graph.costs import layer_cost
from tuner.graph.ir import Graph, Layer
from tuner.measure.roof import Roof
from tuner.types import Device

KINDS = ("winograd", "products", "weights", "depthwise", "small", "rest")
_LOOKS_UP = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})  # a part of what they are given
_SMALL = 2e-6  # seconds; below, waking the cores and their meeting again take longer than the work


@dataclass(frozen=True)
class _Bound:
    """Seconds that a layer takes at least."""

    operations: float  # at the measured peak
    weights: float  # from memory; 0 where they stay in the last-level cache


def bound(graph: Graph, roof: Roof, device: Device) -> float:
    """Seconds below which nobody gets who does each layer's operations as they are written.

    A layer takes at least as long as its operations at the peak, and, in a model whose weights do not fit into the
    last-level cache, as reading its weights from memory: of a table that it looks up in, as much as it takes. Data
    between layers may stay in caches and counts nothing. Winograd's algorithm does fewer operations, and may go below.
    """
    return sum(max(b.operations, b.weights) for b in _bounds(graph, roof, device).values())


def parts(blocks: Sequence[Mapping[str, Any]], graph: Graph, roof: Roof, device: Device) -> dict[str, dict[str, Any]]:
    """Where a tuned plan spends its time: kind -> number of blocks, their milliseconds and what bounds these.

    *winograd*: products by that algorithm. *weights*: bound by reading weights from memory. *products*: other blocks
    with sums over channels, bound by the peak. *depthwise*: lone depthwise convolutions. *small*: whatever has a bound
    below 2 us. *rest*: layers without products.

    Args:
        blocks: of the plan's report.json, each with ``layers``, ``template`` and ``ms``.
        graph: the model, as the plan's layers name it.
    """
    bounds = _bounds(graph, roof, device)
    found = {kind: {"blocks": 0, "ms": 0.0, "bound_ms": 0.0} for kind in KINDS}
    for block in blocks:
        if block["ms"] is None:
            continue
        of = [bounds[name] for name in block["layers"]]
        whole = _Bound(sum(b.operations for b in of), sum(b.weights for b in of))
        part = found[_kind(block["template"], whole, any(_multiplies(graph, name) for name in block["layers"]))]
        part["blocks"] += 1
        part["ms"] += block["ms"]
        part["bound_ms"] += 1e3 * max(whole.operations, whole.weights)
    return found


def _kind(template: str, least: _Bound, multiplies: bool) -> str:
    if max(least.operations, least.weights) < _SMALL:
        return "small"
    if template.startswith("winograd"):
        return "winograd"
    if not multiplies:
        return "rest"
    if least.weights > least.operations:
        return "weights"
    return "depthwise" if template == "depthwise" else "products"


def _multiplies(graph: Graph, name: str) -> bool:
    return layer_cost(graph, graph.by_id[name]).macs > 0


def _bounds(graph: Graph, roof: Roof, device: Device) -> dict[str, _Bound]:
    """By layer."""
    cold = sum(constant.bytes for constant in graph.constants.values()) > device.l3
    found = {}
    for layer in graph.layers:
        cost = layer_cost(graph, layer)
        found[layer.id] = _Bound(cost.ops / roof.flops, _weights(graph, layer) / roof.bandwidth if cold else 0.0)
    return found


def _weights(graph: Graph, layer: Layer) -> int:
    """Bytes of constants that a layer reads."""
    most = layer_cost(graph, layer).bytes_written if layer.op in _LOOKS_UP else math.inf
    return sum(int(min(graph.constants[n].bytes, most)) for n in set(layer.inputs) if n in graph.constants)
