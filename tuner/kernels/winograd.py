"""3x3 and 5x5 convolutions by Winograd's F(m x m, r x r): fewer multiplications.

Of 3x3 filters 2.25 (m = 2) or 4 (m = 4) times fewer, of 5x5 filters 6.25 (m = 4) times; of 3x3 filters with a stride
of 2, where even and odd pixels are transformed apart, 1.44 (m = 2) times.

Output tiles are grouped into blocks of ``bh`` x ``bw``: all transformed data of one block stays in the second-level
cache while the transformed weights U stream by. Two parallel schemes: ``scheme`` 0 gives each task a block, from
padding to output; ``scheme`` 1 first transforms the whole input on all cores and then gives each task output channels
of a block, so that every core reads only its share of U: for small images with large weights.

Groups are served where they are whole blocks of channels. Rounding errors grow with m and r: at most about 3e-6
(m = 2), 5e-5 (m = 4) and, with 5x5 filters, 6e-5 where outputs have a standard deviation of 1.
"""

from __future__ import annotations

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.epilogue import anchored
from tuner.kernels.winograd_build import WinogradBuilder
from tuner.kernels.winograd_tiles import Rule
from tuner.plan.layout import block_of
from tuner.types import Device

SIZES = {(3, 1): [2, 4], (5, 1): [4], (3, 2): [2]}  # (filter, stride) -> sides of tiles that are worth trying


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
        square = s.kh == s.kw and s.stride[0] == s.stride[1] and s.dilation == (1, 1)
        blocks = {block_of(layouts[n]) for n in (conv.inputs[0], workload.outputs[0])}
        if not square or (s.kh, s.stride[0]) not in SIZES or blocks != {device.lanes} or not _fills(s, device.lanes):
            return False
        return Rule(s, device).worthwhile(_knobs(s, device))

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        s = ConvShape.of(workload, _conv(workload))
        knobs, rule = _knobs(s, device), Rule(s, device)
        return Space(knobs, rule.default(knobs), rule)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return WinogradBuilder(workload, layouts, knobs, device, _conv(workload)).kernel(cores)


def _conv(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op == "Conv")


def _fills(s: ConvShape, lanes: int) -> bool:
    """Whether a group has channels enough to fill vectors; several must be whole blocks of channels."""
    each = s.ic // s.groups, s.oc // s.groups
    return min(each) >= lanes and (s.groups == 1 or not any(channels % lanes for channels in each))


def _knobs(s: ConvShape, device: Device) -> dict[str, list[int]]:
    height, width = -(-s.oh // 2), -(-s.ow // 2)
    chunks = -(-s.oc // s.groups // device.lanes)
    sides = sorted({1, 2, 4, 7, 14, 28} | {-(-x // d) for x in (s.oh, s.ow) for d in (2, 4, 8)})
    return {
        "m": SIZES[s.kh, s.stride[0]],
        "bh": [b for b in sides if b <= height],
        "bw": [b for b in sides if b <= width],
        "oc_t": [t for t in (1, 2, 4) if chunks % t == 0],
        "reg_n": list(range(4, 15)),
        "scheme": [0, 1],
    }
