"""An inverted residual block in one kernel: expansion, depthwise convolution and projection of a band of rows.

One task computes ``rows`` rows of the output. It expands a few vectors of channels at a time, for the rows that the
depthwise convolution needs (the halo is computed again by neighbouring tasks), convolves these, and keeps the result of
all channels; then the 1x1 convolution reads that. So neither of the two wide images ever leaves a core's cache, and of
the first no more is held than a few vectors of channels.
Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), point out that such a block can be
evaluated part by part of its hidden channels.
"""

from __future__ import annotations

from tuner.graph.ir import Graph
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv_chain_shape import has_own_weights
from tuner.kernels.epilogue import anchored
from tuner.kernels.inverted_residual_build import InvertedResidualBuilder
from tuner.kernels.inverted_residual_shape import Trio, TrioShape, allowed, default_of, is_served, knobs_of, trio_of
from tuner.plan.layout import block_of
from tuner.types import Device


class InvertedResidual(KernelTemplate):
    name = "inverted_residual"
    version = 1
    heavy = frozenset({"Conv"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        trio = trio_of(workload)
        if trio is None or block_of(layouts[workload.outputs[0]]) != device.lanes:
            return False
        if any(anchored(part, self.heavy) is None for part in trio.parts):
            return False
        image = trio.pair.first.inputs[0]
        if image not in workload.inputs or len(workload.tensors[image].shape) != 4:
            return False
        convs = (trio.pair.first, trio.pair.second, trio.third)
        if not all(has_own_weights(workload, conv) for conv in convs):
            return False
        shape = TrioShape.of(workload, trio)
        return is_served(shape) and min(*shape.chain.first.pads, *shape.chain.second.pads) >= 0

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        shape = TrioShape.of(workload, _trio(workload))
        knobs = knobs_of(shape, device)
        default = default_of(shape, knobs, device)
        return Space(knobs, default, lambda k: k == default or allowed(shape, k, knobs, device))

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return InvertedResidualBuilder(workload, layouts, knobs, device, _trio(workload)).kernel(cores)


def _trio(workload: Graph) -> Trio:
    trio = trio_of(workload)
    if trio is None:
        raise ValueError("no three convolutions one behind the other: not a workload that the template accepts")
    return trio
