"""Direct convolution whose tasks compute rows of the image, and copy with its border only what they read.

``conv2d`` copies a whole bordered image before any task starts, for the sake of register tiles that may go on into the
next row. Here a tile ends with its row, and the copy stays in the first-level cache: that pays where there is little
to compute for each number copied, as in first convolutions and in those with a stride.
"""

from __future__ import annotations

from dataclasses import replace

from tuner.graph.ir import Graph
from tuner.kernels.base import Kernel, Knobs, Layouts, Space
from tuner.kernels.conv2d import Conv2d, ConvBuilder
from tuner.kernels.conv_shape import ConvShape
from tuner.plan.layout import block_of
from tuner.types import Device

_TILE = 16  # accumulators of the default; with more, addresses of rows that lie apart push them out of the registers
_TALLEST = 14  # rows of a task


class Conv2dRows(Conv2d):
    """A convolution with a border and a stride, or of an image that does not lie in blocks of channels."""

    name = "conv2d_rows"
    version = 1

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        if not super().accepts(workload, layouts, device):
            return False
        shape = super().geometry(workload)
        (image,) = (x.inputs[0] for x in workload.layers if x.op == "Conv")
        return shape.copied > 0 and not shape.gathered and (shape.stride != (1, 1) or not block_of(layouts[image]))

    def geometry(self, workload: Graph) -> ConvShape:
        return replace(super().geometry(workload), rows_kept=True)

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        found, shape = super().space(workload, layouts, device), self.geometry(workload)
        oc_t = min(2, max(found.knobs["oc_t"]))
        reg_n = max((n for n in found.knobs["reg_n"] if oc_t * n <= _TILE), default=min(found.knobs["reg_n"]))
        chunks = shape.n * -(-shape.oc // (device.lanes * oc_t))
        rows = found.knobs["rows"]
        busy = [r for r in rows if r <= _TALLEST and chunks * -(-shape.oh // r) >= 4 * device.cores]
        default = {**found.default, "oc_t": oc_t, "reg_n": reg_n, "rows": max(busy, default=rows[0]), "order": 0}
        rule = found.rule
        return Space(found.knobs, default, lambda k: k == default or rule(k))

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return _Builder(workload, layouts, knobs, device, self.precision).kernel(cores)


class _Builder(ConvBuilder):
    def geometry(self) -> ConvShape:
        return replace(super().geometry(), rows_kept=True)
