"""Gather along one axis (the embedding of words, one row of a matrix) with a fused epilogue, in one pass.

Indices count from the end when negative, as ONNX has it; beyond the table, which ONNX forbids, they are clamped, so
that nothing outside it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.elementwise import one_pass
from tuner.kernels.epilogue import Body, fusable_elementwise
from tuner.plan.layout import PLAIN
from tuner.types import Device

_INTEGERS = frozenset({"int32", "int64"})


class Gather(KernelTemplate):
    name = "gather"
    heavy = frozenset({"Gather"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layers = [x for x in workload.layers if x.op == "Gather"]
        if len(layers) != 1 or len(workload.outputs) != 1 or any(v != PLAIN for v in layouts.values()):
            return False
        table, indices = layers[0].inputs
        given = (*workload.inputs, *workload.constants)
        if table not in given or indices not in given or workload.type_of(indices).dtype not in _INTEGERS:
            return False
        if workload.type_of(table).dtype != "float32" or not workload.type_of(table).elements:
            return False
        made = workload.tensors[layers[0].outputs[0]]
        rest = [x for x in workload.layers if x is not layers[0]]
        floats = all(t.dtype == "float32" for n, t in workload.tensors.items() if n != indices)
        alike = all(workload.tensors[x.outputs[0]].shape == made.shape for x in rest)
        read_once = sum(x.inputs.count(indices) for x in workload.layers) == 1
        return made.elements > 0 and floats and alike and read_once and all(
            fusable_elementwise(workload, x) for x in rest
        )  # fmt: skip

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1, 4]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        body = Body(workload, layouts)
        layer = next(x for x in workload.layers if x.op == "Gather")
        table, indices = layer.inputs
        axis, rank = _axis(workload, layer), len(workload.type_of(indices).shape)
        extent = workload.type_of(table).shape[axis]

        def read(index: Sequence[Any]) -> Any:
            place = body.read(indices, tuple(index[axis : axis + rank]))
            place = tirx.Select(place < 0, place + extent, place)
            place = tirx.max(tirx.min(place, extent - 1), 0).astype("int32")
            return body.read(table, (*index[:axis], place, *index[axis + rank :]))

        body.anchors[layer.outputs[0]] = read
        return one_pass(body, knobs, cores, device)


def _axis(workload: Graph, layer: Layer) -> int:
    return int(layer.attr("axis", 0)) % len(workload.type_of(layer.inputs[0]).shape)
