"""Two convolutions in one kernel: the image between them never leaves a core's cache.

One task computes ``rows`` output rows of the second convolution, all its channels or one of ``parts`` parts: first the
rows of the first convolution that these need (the halo is computed again by neighbouring tasks) into a buffer of the
task's own, then the second from there. Each convolution has all its groups in one or is depthwise (a 1x1 convolution in
front of a depthwise one may have any), and elementwise layers behind it. Where the second is depthwise, a task goes on
from one few vectors of channels to the next, and holds no more of the image in between than these.
After the fused-layer accelerator of Alwani et al. (MICRO 2016), which recomputes or keeps such halos.
"""

from __future__ import annotations

from math import ceil

from tuner.graph.ir import Graph
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv_chain_build import ChainBuilder
from tuner.kernels.conv_chain_shape import (
    ChainShape,
    Pair,
    allowed,
    best_split,
    best_tile,
    has_own_weights,
    is_depthwise,
    pair_of,
    vectors,
    widths,
)
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.epilogue import anchored
from tuner.plan.layout import block_of
from tuner.types import Device


class ConvChain(KernelTemplate):
    name = "conv_chain"
    version = 3
    heavy = frozenset({"Conv"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        pair = pair_of(workload)
        if pair is None or block_of(layouts[workload.outputs[0]]) != device.lanes:
            return False
        if anchored(pair.front, self.heavy) is None or anchored(pair.back, self.heavy) is None:
            return False
        image = pair.first.inputs[0]
        if image not in workload.inputs or len(workload.tensors[image].shape) != 4:
            return False
        if not all(has_own_weights(workload, conv) for conv in (pair.first, pair.second)):
            return False
        shape = ChainShape.of(workload, pair)
        grouped = shape.apart and shape.first.listed  # each vector of channels then reads its own groups
        if not _served(shape.first, grouped=grouped) or not _served(shape.second):
            return False
        if is_depthwise(shape.first) and block_of(layouts[image]) not in {0, device.lanes}:
            return False
        # Strides wider than the window would compute pixels of the first convolution that nobody reads.
        return shape.second.stride[0] <= shape.second.kh and shape.second.stride[1] <= shape.second.kw

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        shape = ChainShape.of(workload, _pair(workload))
        first, second = shape.first, shape.second
        chunks = ceil(second.oc / device.lanes)
        height = second.oh
        rows = sorted({r for r in (1, 2, 4, 7, 14, 28) if r <= height} | ({height} if height <= 56 else set()))
        several = {1, 2, 3, 4, 6, 8, 12, chunks} if shape.apart else {1, 2, 4} if is_depthwise(first) else {1, 2}
        knobs = {
            "rows": rows,
            "parts": [p for p in sorted(several) if chunks % p == 0 and p <= 48],
            "oc_a": vectors(first, device),
            "reg_a": widths(first, device),
            "oc_b": vectors(second, device),
            "reg_b": widths(second, device),
            "order": [0] if shape.apart else [0, 1],
        }
        within = [r for r in rows if r == rows[0] or _held(shape, r, device) <= device.l2]
        height, parts = best_split(shape, within, knobs["parts"], device)
        behind, ahead = shape.pixels(height)[::-1]
        divisor = chunks // parts
        oc_a = [t for t in knobs["oc_a"] if not shape.apart or divisor % t == 0]
        oc_b = [t for t in knobs["oc_b"] if divisor % t == 0]
        even = [n for n in knobs["reg_a"] if ahead % n == 0]  # a ragged row of the first takes an address per pixel
        tile_a = best_tile(first, ahead, oc_a, even if max(even) >= 4 else knobs["reg_a"], device)
        tile_b = best_tile(second, behind, oc_b, knobs["reg_b"], device)
        default = {
            "rows": height, "parts": parts, "oc_a": tile_a[0], "reg_a": tile_a[1], "oc_b": tile_b[0],
            "reg_b": tile_b[1], "order": shape.order(height),
        }  # fmt: skip
        return Space(knobs, default, lambda k: k == default or allowed(shape, k, knobs, device))

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return ChainBuilder(workload, layouts, knobs, device, _pair(workload)).kernel(cores)


def _pair(workload: Graph) -> Pair:
    pair = pair_of(workload)
    if pair is None:
        raise ValueError("no two convolutions one behind the other: not a workload that the template accepts")
    return pair


def _held(shape: ChainShape, rows: int, device: Device) -> int:
    """Bytes that a task keeps of the image in between, at least."""
    return shape.held(rows, device.lanes if shape.apart else shape.first.oc)


def _served(s: ConvShape, *, grouped: bool = False) -> bool:
    return (s.groups == 1 or is_depthwise(s) or grouped) and min(s.pads) >= 0
