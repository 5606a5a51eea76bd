"""3x3 stride-1 convolutions by Winograd's F(m x m, 3 x 3): 2.25 (m = 2) or 4 (m = 4) times fewer multiplications.

Output tiles are grouped into blocks of ``bh`` x ``bw``: all transformed data of one block stays in the second-level
cache while the transformed weights U stream by. Two parallel schemes: ``scheme`` 0 gives each task a block, from
padding to output; ``scheme`` 1 first transforms the whole input on all cores and then gives each task output channels
of a block, so that every core reads only its share of U: for small images with large weights.

Groups are served where they are whole blocks of channels. Rounding errors grow with m: about 1e-6 (m = 2) and 3e-5
(m = 4) of outputs with standard deviation 1.
"""

from __future__ import annotations

from math import prod

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.epilogue import anchored
from tuner.kernels.winograd_build import WinogradBuilder
from tuner.kernels.winograd_tiles import Rule, Tiling
from tuner.plan.layout import block_of
from tuner.types import Device


class Winograd(KernelTemplate):
    name = "winograd"
    version = 2
    heavy = frozenset({"Conv"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        conv = anchored(workload, self.heavy)
        if conv is None or conv.inputs[0] not in workload.inputs or len(workload.tensors[conv.inputs[0]].shape) != 4:
            return False
        weights = workload.constants.get(conv.inputs[1])
        if weights is None or weights.value is not None:
            return False
        s = ConvShape.of(workload, conv)
        plain = (s.kh, s.kw, s.stride, s.dilation) == (3, 3, (1, 1), (1, 1))
        blocks = {block_of(layouts[n]) for n in (conv.inputs[0], workload.outputs[0])}
        return plain and blocks == {device.lanes} and _fills(s, device.lanes) and prod(Tiling(s, 2, 1, 1).image) >= 4

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        s = ConvShape.of(workload, _conv(workload))
        height, width = -(-s.oh // 2), -(-s.ow // 2)
        chunks = -(-s.oc // s.groups // device.lanes)
        sides = sorted({1, 2, 4, 7, 14, 28} | {-(-x // d) for x in (s.oh, s.ow) for d in (2, 4, 8)})
        knobs = {
            "m": [2, 4],
            "bh": [b for b in sides if b <= height],
            "bw": [b for b in sides if b <= width],
            "oc_t": [t for t in (1, 2, 4) if chunks % t == 0],
            "reg_n": list(range(4, 15)),
            "scheme": [0, 1],
        }
        rule = Rule(s, device)
        return Space(knobs, rule.default(knobs), rule)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return WinogradBuilder(workload, layouts, knobs, device, _conv(workload)).kernel(cores)


def _conv(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op == "Conv")


def _fills(s: ConvShape, lanes: int) -> bool:
    """Whether a group has channels enough to fill vectors; several must be whole blocks of channels."""
    each = s.ic // s.groups, s.oc // s.groups
    return min(each) >= lanes and (s.groups == 1 or not any(channels % lanes for channels in each))
