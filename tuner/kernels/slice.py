"""A part of a tensor, cut out along its axes, with the elementwise layers behind it: one pass over memory.

For Slices that cannot be read where they lie (``tuner.plan.slices``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from tuner.graph.ir import Graph
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.elementwise import one_pass
from tuner.kernels.epilogue import Body, anchored
from tuner.kernels.views import Chan, flat
from tuner.plan.layout import block_of
from tuner.plan.slices import SLICE, Cut, cuts_of
from tuner.types import Device


class Slice(KernelTemplate):
    """Any axes are cut, forwards; blocked layouts on either side, or none."""

    name = "slice"
    version = 1
    heavy = frozenset({SLICE})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, self.heavy)
        if layer is None or layer.inputs[0] not in workload.inputs or not cuts_of(workload, layer):
            return False
        names = (*workload.inputs, *workload.outputs)
        return all(len(workload.tensors[n].shape) == 4 for n in names if block_of(layouts.get(n, "plain")))

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1, 4]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        body = Body(workload, layouts)
        layer = next(x for x in workload.layers if x.op == SLICE)
        cuts = cuts_of(workload, layer)
        if not cuts:
            raise ValueError("build() of a workload that accepts() refuses")
        shape = workload.tensors[layer.inputs[0]].shape

        def read(index: Sequence[Any]) -> Any:
            moved = list(index)
            for cut in cuts:
                moved[cut.axis] = _moved(index[cut.axis], cut, shape[cut.axis] - 1)
            return body.read(layer.inputs[0], moved)

        body.anchors[layer.outputs[0]] = read
        return one_pass(body, knobs, cores, device)


def _moved(here: Any, cut: Cut, last: int) -> Any:
    """The place in what is cut of a place in the result."""
    if isinstance(here, Chan) and cut.start % here.block == 0 and cut.step == 1:
        return Chan(here.outer + cut.start // here.block, here.inner, here.block)
    moved = flat(here) * cut.step + cut.start  # padding reads what the last element is, not what lies behind the tensor
    return tirx.min(moved, last) if isinstance(here, Chan) else moved
