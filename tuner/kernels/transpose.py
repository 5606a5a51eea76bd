"""Transposes by themselves, with a fused epilogue; those next to a product are read by the product in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.elementwise import one_pass
from tuner.kernels.epilogue import Body, anchored
from tuner.plan.layout import PLAIN
from tuner.types import Device


class Transpose(KernelTemplate):
    name = "transpose"
    heavy = frozenset({"Transpose"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, self.heavy)
        if layer is None or any(v != PLAIN for v in layouts.values()):
            return False
        return layer.inputs[0] in workload.inputs and workload.tensors[layer.inputs[0]].elements > 0

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1, 4]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        body = Body(workload, layouts)
        look_through(body, next(x for x in workload.layers if x.op == "Transpose"))
        return one_pass(body, knobs, cores, device)


def permutation(workload: Graph, layer: Layer) -> tuple[int, ...]:
    """Axis of the operand by axis of the result."""
    rank = len(workload.tensors[layer.inputs[0]].shape)
    return tuple(layer.attr("perm") or reversed(range(rank)))


def look_through(body: Body, layer: Layer) -> None:
    """Reads of the transposed tensor become reads of the operand."""
    order = permutation(body.workload, layer)

    def read(index: Sequence[Any]) -> Any:
        moved = dict(zip(order, index, strict=True))
        return body.read(layer.inputs[0], tuple(moved[axis] for axis in range(len(order))))

    body.anchors[layer.outputs[0]] = read
