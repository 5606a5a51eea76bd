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
from tuner.plan.slices import SLICE, cut_of
from tuner.types import Device


class Slice(KernelTemplate):
    """One axis is cut, in steps of one; blocked layouts on either side, or none."""

    name = "slice"
    version = 1
    heavy = frozenset({SLICE})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, self.heavy)
        if layer is None or layer.inputs[0] not in workload.inputs or cut_of(workload, layer) is None:
            return False
        names = (*workload.inputs, *workload.outputs)
        return all(len(workload.tensors[n].shape) == 4 for n in names if block_of(layouts.get(n, "plain")))

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1, 4]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        body = Body(workload, layouts)
        layer = next(x for x in workload.layers if x.op == SLICE)
        cut = cut_of(workload, layer)
        if cut is None:
            raise ValueError("build() of a workload that accepts() refuses")
        last = workload.tensors[layer.inputs[0]].shape[cut.axis] - 1

        def read(index: Sequence[Any]) -> Any:
            here = index[cut.axis]
            if isinstance(here, Chan) and cut.start % here.block == 0:
                moved: Any = Chan(here.outer + cut.start // here.block, here.inner, here.block)
            else:  # padding reads what the last element is, rather than what lies behind the tensor
                moved = flat(here) + cut.start
                moved = tirx.min(moved, last) if isinstance(here, Chan) else moved
            return body.read(layer.inputs[0], (*index[: cut.axis], moved, *index[cut.axis + 1 :]))

        body.anchors[layer.outputs[0]] = read
        return one_pass(body, knobs, cores, device)
