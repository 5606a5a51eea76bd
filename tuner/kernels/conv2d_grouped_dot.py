"""1x1 convolution whose groups cut through blocks of channels (ShuffleNet's of 34, 68 and 136), in pairs of bfloat16.

A task computes all channels of ``rows`` register tiles of pixels. It copies its pixels, rounded, so that the channels
of each lie side by side whatever block they were in; then it goes through the groups, each of which reads its own
channels alone, so that no vector holds channels of two groups. The sums lie as the copy does until the layers behind
the convolution read them, block by block. A group's last vector reaches into the next group, which comes afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te

from tuner.graph.ir import Graph, Layer
from tuner.kernels import dot, pairs
from tuner.kernels.base import Kernel, Knobs, Layouts, Space
from tuner.kernels.conv2d import Conv2d, ConvBuilder, tile_widths
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.scheduling import divisors, module_of, parallelise, schedule_of
from tuner.kernels.views import Chan, flat
from tuner.plan.layout import Pack, block_of
from tuner.precision import BF16_DOT
from tuner.types import Device

_WIDEST = 4  # vectors of a group that are computed together
_TILE = 24  # accumulators of the default


class Conv2dGroupedDot(Conv2d):
    name = "conv2d_grouped_dot"
    version = 1
    precision = BF16_DOT

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        if not super().accepts(workload, layouts, device) or not pairs.serves(workload, _conv(workload), device):
            return False
        conv = _conv(workload)
        shape, block = ConvShape.of(workload, conv), block_of(layouts[conv.inputs[0]])
        return block == device.lanes and shape.in_place and Vectors(shape, device.lanes).serve

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        shape = ConvShape.of(workload, _conv(workload))
        width = shape.oh * shape.ow
        together = divisors(Vectors(shape, device.lanes).count, _WIDEST)
        tiles = tile_widths(width, device.registers - 4)
        rows = [r for r in (1, 2, 4, 8, 16) if r * min(tiles) <= width]
        oc_t = max(together)
        reg_n = max((n for n in tiles if oc_t * n <= _TILE), default=min(tiles))
        tasks = shape.n * -(-width // reg_n)
        even = [r for r in rows if dot.even(shape, {"reg_n": reg_n, "rows": r})]
        default = {
            "oc_t": oc_t,
            "reg_n": reg_n,
            "rows": max((r for r in even if tasks // r >= 2 * device.cores), default=even[0]),
        }

        def fits(k: Knobs) -> bool:
            accumulators = k["oc_t"] * k["reg_n"]
            return k == default or (dot.even(shape, k) and 4 <= accumulators <= device.registers - 2)

        return Space({"oc_t": together, "reg_n": tiles, "rows": rows}, default, fits)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return _Builder(workload, layouts, knobs, device, self.precision).kernel(cores)


def _conv(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op == "Conv")


class Vectors:
    """The vectors of each group's output channels, of a convolution in vectors of ``lanes`` channels."""

    def __init__(self, shape: ConvShape, lanes: int) -> None:
        self._shape, self._lanes = shape, lanes
        self.group_ic, self.group_oc = shape.ic // shape.groups, shape.oc // shape.groups
        self.count = -(-self.group_oc // lanes)  # of a group

    @property
    def serve(self) -> bool:
        """Whether groups read whole pairs of channels, and the last one's vectors fill the last block of channels."""
        groups, oc, lanes = self._shape.groups, self._shape.oc, self._lanes
        reach = (groups - 1) * self.group_oc + self.count * lanes
        return groups > 1 and self.group_ic % 2 == 0 and reach >= -(-oc // lanes) * lanes

    def pack(self, together: int) -> tuple[tuple[int, ...], Pack]:
        """Shape and packing of the weights: [group, vectors computed together, channel read, lane of these]."""
        groups, parts, lanes = self._shape.groups, self.count // together, together * self._lanes
        steps = (
            ("reshape", [groups, self.group_oc, self.group_ic]),
            ("pad", [[0, 0], [0, parts * lanes - self.group_oc], [0, 0]]),
            ("reshape", [groups, parts, lanes, self.group_ic]),
            ("transpose", [0, 1, 3, 2]),
        )
        return (groups, parts, self.group_ic, lanes), Pack(steps)


class _Builder(ConvBuilder):
    def kernel(self, cores: int) -> Kernel:
        self.vectors = Vectors(self.shape, self.device.lanes)
        tensors, args = self.body.finish(self.output(self._products(self._pixels())))
        module = module_of(tensors)
        sch = schedule_of(module)
        self._schedule(sch, cores)
        return Kernel(module, sch, args, self.body.packs)

    # expressions -----------------------------------------------------------------------------------------------

    def _pixels(self) -> te.Tensor:
        """The rounded image by pixels: [n, column, channel block, pair, 2]."""
        s, lanes, data = self.shape, self.device.lanes, self.body.input(self.conv.inputs[0])

        def pixel(n: Any, column: Any, co: Any, i: Any, j: Any) -> Any:
            p = self._pixel(column)
            return data.bits((n, Chan(co, i * 2 + j, lanes), p // s.ow, p % s.ow))

        return te.compute((s.n, self._cols(), -(-s.ic // lanes), lanes // 2, 2), pixel, name="pad")

    def _products(self, pixels: te.Tensor) -> te.Tensor:
        """The sums [n, group, column, channel of the group's vectors]."""
        s, v, half, ob = self.shape, self.vectors, self.device.lanes // 2, self.ob
        weights = pairs.PAIRS.weights(self.body, self.conv.inputs[1], *v.pack(self.knobs["oc_t"]))
        widened = pairs.PAIRS.widened
        icp, pair = te.reduce_axis((0, v.group_ic // 2), "icp"), te.reduce_axis((0, 2), "pair")

        def product(n: Any, g: Any, x: Any, i: Any) -> Any:
            both = g * (v.group_ic // 2) + icp
            value = widened(pixels(n, x, both // half, both % half, pair))
            return te.sum(value * widened(weights(g, i // ob, icp, i % ob, pair)), axis=[icp, pair])

        return te.compute((s.n, s.groups, self._cols(), v.count * self.device.lanes), product, name="acc")

    def anchor(self, acc: te.Tensor) -> None:
        bias = self.conv.inputs[2] if len(self.conv.inputs) > 2 and self.conv.inputs[2] else None
        size, last = self.vectors.group_oc, self.shape.groups - 1

        def read(index: Sequence[Any]) -> Any:
            n, c, _, _ = index
            group = te.min(flat(c) // size, last)  # the last one's vectors reach into the block's padding
            value = acc(n, group, self._column, flat(c) - group * size)
            return value if bias is None else value + self.body.read(bias, (c,))

        self.body.anchors[self.conv.outputs[0]] = read

    # schedule --------------------------------------------------------------------------------------------------

    def _schedule(self, sch: Any, cores: int) -> None:
        k, s, size = self.knobs, self.shape, self.vectors.group_oc
        out, acc, pad = (sch.get_sblock(name) for name in ("out", "acc", "pad"))
        sums = sch.cache_write(acc, 0, "local")  # puts a register tile among the sums of all channels
        n, co, x, ci = sch.get_loops(out)
        band, x_o, x_i = sch.split(x, [None, k["rows"], k["reg_n"]])
        sch.reorder(n, band, co, x_o, x_i, ci)
        task = parallelise(sch, sch.fuse(n, band), cores, self.device.cores, even=True)
        sch.compute_at(sums, task, preserve_unit_loops=True)
        _, group, col, lane = sch.get_loops(sums)[-4:]
        col_o, col_i = sch.split(col, [None, k["reg_n"]])
        part, vector, lane = sch.split(lane, [None, k["oc_t"], self.device.lanes])
        sch.reorder(group, part, col_o, col_i, vector, lane)  # groups in their order: see above
        sch.compute_at(acc, col_o, preserve_unit_loops=True)
        sch.compute_at(pad, task, preserve_unit_loops=True)
        for loop in (x_i, col_i, vector):
            sch.unroll(loop)
        for loop in (ci, lane, sch.fuse(*sch.get_loops(pad)[-2:])):
            sch.vectorize(loop)
        *_, col, lane, icp, pair = sch.get_loops(acc)
        dot.accumulate(sch, acc, pairs.PAIRS, (icp,), col, lane, pair)
        sch.transform_layout(
            sums, ("write", 0), lambda n, g, p, i: (n, p, g * size + i),
            assume_injective_transform=True,  # what reaches into the next group is overwritten by it
        )  # fmt: skip
        sch.transform_layout(
            out, ("write", 0),
            lambda n, c, p, i: (n, c, self._pixel(p) // s.ow, self._pixel(p) % s.ow, i),
            assume_injective_transform=True,  # pixels that are computed twice are written twice, and equal
        )  # fmt: skip
