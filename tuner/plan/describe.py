"""Workloads in a few words, for people: "Conv+Add+Relu 3x3 256 -> 256 at 14x14"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.graph.ir import Graph

_SHOWN = 3  # operators named before the rest is counted


def describe(workload: Mapping[str, Any] | Graph) -> str:
    """What a workload computes: its operators, its kernel and channels if it is a convolution, its output's size."""
    graph = workload if isinstance(workload, Graph) else Graph.from_json(workload)
    ops = [layer.op for layer in graph.layers]
    name = "+".join(ops[:_SHOWN]) + (f"+{len(ops) - _SHOWN}" if len(ops) > _SHOWN else "")
    out = graph.tensors[graph.outputs[0]].shape
    first = graph.layers[0] if graph.layers else None
    weight = graph.constants.get(first.inputs[1]) if first and len(first.inputs) > 1 else None
    if first is not None and first.op == "Conv" and weight is not None and len(weight.shape) == 4:
        given, attrs = graph.tensors.get(first.inputs[0]), dict(first.attrs)
        into = given.shape[1] if given is not None else weight.shape[1]
        window = "x".join(map(str, weight.shape[2:]))
        stride = max(attrs.get("strides", (1,)))
        group = attrs.get("group", 1)
        extra = (f" stride {stride}" if stride > 1 else "") + (f" groups {group}" if group > 1 else "")
        return f"{name} {window}{extra} {into} -> {weight.shape[0]} at {'x'.join(map(str, out[2:]))}"
    return f"{name} -> {'x'.join(map(str, out))}"
