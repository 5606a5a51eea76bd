"""Direct convolution in NCHW[x]c with pre-packed weights (stride, dilation, padding, groups) and a fused epilogue.

``reg_n`` output pixels x ``oc_t`` vectors of channels live in registers while all input channels stream by; one task
computes ``rows`` such tiles. The image is seen as one long row of pixels, whose last tile is moved back to end with the
row: some pixels are computed twice, and no lane is idle. Padding, and the pixels that a 1x1 convolution with a stride
reads, are copied once before the tasks start. Where that copy would be large, and under a pooling, a task computes
``rows`` rows of the image instead, and copies what it reads.
After NeoCPU (ATC'19), with weights packed [OC/ob, IC/ib, KH, KW, ib, ob].

Groups: a task reads, group by group, the input channels of the groups that its output channels belong to; weights
outside a channel's own group are zero. Where groups align with tasks that is exactly one group and nothing is wasted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv_image import Image, Source
from tuner.kernels.conv_products import reductions, sum_products
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.conv_weights import groups_of, pack_weights
from tuner.kernels.epilogue import Body, anchored
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.views import Chan, chan
from tuner.plan.bf16 import weights_of
from tuner.plan.layout import block_of, physical_shape
from tuner.precision import BF16
from tuner.types import Device


class Conv2d(KernelTemplate):
    name = "conv2d"
    version = 4
    heavy = frozenset({"Conv"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        conv = anchored(workload, self.heavy)
        if conv is None or len(workload.tensors[conv.inputs[0]].shape) != 4:
            return False
        weights = conv.inputs[1]
        if not workload.is_constant(weights) or workload.constants[weights].value is not None:
            return False
        return conv.inputs[0] in workload.inputs and block_of(layouts[workload.outputs[0]]) == device.lanes

    def geometry(self, workload: Graph) -> ConvShape:
        """The numbers of the convolution, and how its kernels go through the image."""
        return ConvShape.of(workload, _conv(workload))

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        shape = self.geometry(workload)
        tiles, default, rule = register_tiles(shape, device)
        width = shape.oh * shape.ow if shape.flat else shape.ow
        height = 1 if shape.flat else shape.oh
        if shape.flat:
            rows = sorted({n for n in (1, 2, 4, 8, 16, 32) if n * min(tiles["reg_n"]) <= width})
        else:
            rows = sorted({r for r in (1, 2, 4, 7, 8, 14) if r <= height} | {height if height <= 28 else 1})
        stream, streamed = _streams(shape, block_of(layouts[_conv(workload).inputs[0]]), device)
        knobs = {**tiles, "rows": rows, "order": [0, 1], "stream": stream}
        return Space(knobs, _default(shape, default, rows, device) | {"stream": streamed}, rule)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return ConvBuilder(workload, layouts, knobs, device, self.precision).kernel(cores)


class Conv2dBf16(Conv2d):
    """The same with weights stored as bfloat16, widened in registers."""

    name = "conv2d_bf16"
    version = 1
    precision = BF16

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        return super().accepts(workload, layouts, device) and weights_of(workload, _conv(workload)) is not None


def _conv(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op == "Conv")


def tile_widths(width: int, budget: int) -> list[int]:
    """Register-tile widths worth trying: those that waste at most an eighth of the row (all exact ones included)."""
    tiles = [n for n in range(1, min(width, budget) + 1) if (-(-width // n) * n - width) * 8 <= width]
    return [n for n in tiles if n >= 3 or width % n == 0]


def _vectors(chunks: int, *, ragged: bool) -> list[int]:
    """Vectors of channels per task: those that divide the image's; if ``ragged``, those that waste an eighth or less.

    Never 3, because LLVM splits vectors of 48 badly.
    """
    spare = chunks // 8 if ragged else 0
    return [t for t in (1, 2, 4) if t <= chunks and -chunks % t <= spare]


def register_tiles(
    shape: ConvShape, device: Device
) -> tuple[dict[str, list[int]], dict[str, int], Callable[[Knobs], bool]]:
    """Knobs ``oc_t`` and ``reg_n``: their values, the default, and which pairs fit the registers.

    The default is the largest tile without spills and waste, by loads and chains per multiply-add.
    """
    chunks = -(-shape.oc // device.lanes)
    width = shape.oh * shape.ow if shape.flat else shape.ow
    knobs = {
        "oc_t": _vectors(chunks, ragged=shape.groups == 1 and not shape.rows_kept),
        "reg_n": tile_widths(width, device.registers - 4),
    }
    most = device.registers - 4 if shape.kh * shape.kw <= 9 else device.registers // 2
    best = (-1.0, -1, 1)
    for oc_t in knobs["oc_t"]:
        for reg_n in knobs["reg_n"]:
            if oc_t > 2 or oc_t * reg_n > most or reg_n > 14:
                continue
            steps = -(-width // reg_n) * reg_n
            loads = 1 / oc_t + 1 / reg_n  # per multiply-add; two loads and two multiply-adds a cycle
            chains = min(oc_t * reg_n / 10, 1)  # multiply-adds in flight hide their latency
            reads = groups_of(shape, device.lanes * oc_t)
            waste = reads.groups * reads.group_ic * shape.groups / shape.ic  # zeros in the weights of mixed tasks
            waste *= -(-chunks // oc_t) * oc_t / chunks
            score = width / steps * chains / max(loads, 0.6) / waste + 0.002 * oc_t * reg_n
            best = max(best, (score, -oc_t, reg_n))
    least = min(4, max(knobs["oc_t"]) * max(knobs["reg_n"]))
    default = {"oc_t": -best[1], "reg_n": best[2]} if best[0] > 0 else {n: v[0] for n, v in knobs.items()}

    def fits(k: Knobs) -> bool:
        return k == default or least <= k["oc_t"] * k["reg_n"] <= device.registers

    return knobs, default, lambda k: fits({"oc_t": k["oc_t"], "reg_n": k["reg_n"]})


def _streams(shape: ConvShape, block: int, device: Device) -> tuple[list[int], int]:
    """Slices of input-channel blocks in which large weights may be streamed (0 = not at all), and the default."""
    weights = shape.oc * shape.ic * shape.kh * shape.kw * 4
    if not block or shape.groups > 1 or weights < device.l2:
        return [0], 0
    slices = [n for n in (1, 2, 4, 8) if n < -(-shape.ic // block)]
    return [0, *slices], 4 if 4 in slices and shape.kh > 1 and weights > 4 * device.l2 else 0


def _default(shape: ConvShape, tile: Knobs, rows: Sequence[int], device: Device) -> dict[str, int]:
    """Tasks enough for the cores; the heavier operand stays in cache while the lighter one streams by."""
    oc_t, reg_n = tile["oc_t"], tile["reg_n"]
    width = shape.oh * shape.ow if shape.flat else shape.ow
    order = _order(shape, device)
    tasks = shape.n * -(-shape.oc // (device.lanes * oc_t))
    steps = -(-width // reg_n) if shape.flat else shape.oh
    height = max((r for r in rows if tasks * -(-steps // r) >= 4 * device.cores), default=rows[0])
    if order == 1:  # few rows per task, so that the input stays in the first-level cache across output channels
        limit = 4 if shape.flat else 2
        height = max(r for r in rows if r <= max(min(height, limit), rows[0]))
    return {"oc_t": oc_t, "reg_n": reg_n, "rows": height, "order": order}


def _order(shape: ConvShape, device: Device) -> int:
    """0: the image passes by once per chunk of weights; 1: the weights once per band of the image.

    Of 1x1 convolutions, whose pixels serve one tap each, an image that does not stay in a core's cache passes once.
    """
    weights = shape.oc * (shape.ic // shape.groups) * shape.kh * shape.kw * 4
    image = shape.copied if shape.gathered and shape.flat else shape.ic * shape.h * shape.w * 4
    far = shape.flat and shape.kh * shape.kw == 1 and image > device.l2 // 2
    return int(weights < (8 * image if far else image))


class ConvBuilder:
    """Writes one convolution kernel; ``conv2d_pool`` puts a pooling behind it."""

    def __init__(self, workload: Graph, layouts: Layouts, knobs: Knobs, device: Device, precision: str) -> None:
        self.workload, self.layouts, self.knobs, self.device = workload, layouts, knobs, device
        self.precision = precision  # of the weights
        self.conv = _conv(workload)
        self.shape = self.geometry()
        self.body = Body(workload, layouts)
        self.ob = device.lanes * knobs["oc_t"]  # channels per task
        self.window = groups_of(self.shape, self.ob)
        self._column: Any = None  # of the long row, whose pixel the layers behind the convolution are asked for

    def geometry(self) -> ConvShape:
        return ConvShape.of(self.workload, self.conv)

    def source(self) -> Source:
        """The image that the convolution reads."""
        return self.body.input(self.conv.inputs[0])

    def kernel(self, cores: int) -> Kernel:
        image = Image(self.shape, self.source(), self.shape.ow if self.shape.flat else self._cols())
        acc = self._accumulate(image)
        out = self.output(acc)
        tensors, args = self.body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        self.schedule(sch, cores, image.copy is not None)
        return Kernel(module, sch, args, self.body.packs)

    # expressions -----------------------------------------------------------------------------------------------

    def _cols(self) -> int:
        """Columns the accumulator stage computes: the row rounded up to whole register tiles."""
        s = self.shape
        width = s.oh * s.ow if s.flat else s.ow
        return -(-width // self.knobs["reg_n"]) * self.knobs["reg_n"]

    def _pixel(self, column: Any) -> Any:
        """The pixel that a column of the accumulator stage stands for, where pixels form one long row."""
        pixels, tile = self.shape.oh * self.shape.ow, self.knobs["reg_n"]
        if pixels % tile == 0:
            return column
        return te.min(column // tile * tile, pixels - tile) + column % tile

    def _accumulate(self, image: Image) -> te.Tensor:
        s, ob, window = self.shape, self.ob, self.window
        block = block_of(self.source().layout)
        weights = self.body.weights(self.conv.inputs[1], *pack_weights(s, ob, window, block), self.precision)
        dims = (s.n, -(-s.oc // ob), 1 if s.flat else s.oh, self._cols(), ob)

        def source(index: Sequence[Any], c: Any, tap: tuple[Any, Any]) -> Any:
            n, _, y, x, _ = index
            if s.flat:
                y, x = self._pixel(x) // s.ow, self._pixel(x) % s.ow
            return image.at(n, c, (y, x), tap)

        return sum_products(s, window, block, dims, source, weights, chunk=1)

    def anchor(self, acc: te.Tensor) -> None:
        """Let the layers behind the convolution read the accumulators, bias added."""
        s, oc_t = self.shape, self.knobs["oc_t"]
        lanes = self.device.lanes
        bias = self.conv.inputs[2] if len(self.conv.inputs) > 2 and self.conv.inputs[2] else None

        def read(index: Sequence[Any]) -> Any:
            n, c, y, x = index
            c = chan(c, lanes)
            if s.flat:
                y, x = 0, self._column
            value = self.product_sum(acc(n, c.outer // oc_t, y, x, (c.outer % oc_t) * lanes + c.inner), c)
            return value if bias is None else value + self.body.read(bias, (c,))

        self.body.anchors[self.conv.outputs[0]] = read

    def product_sum(self, value: Any, c: Chan) -> Any:
        """The sum of products that an accumulator of channel ``c`` stands for."""
        return value

    def output(self, acc: te.Tensor) -> te.Tensor:
        """The stage that writes the kernel's result."""
        s, lanes = self.shape, self.device.lanes
        self.anchor(acc)
        name = self.workload.outputs[0]
        n, c, h, w, lane = physical_shape(self.workload.tensors[name].shape, self.layouts[name])
        if s.flat:  # one long row of whole tiles; the schedule gives the buffer its true shape in the end

            def pixel(i: Any, co: Any, column: Any, ci: Any) -> Any:
                self._column, p = column, self._pixel(column)
                return self.body.result((i, Chan(co, ci, lanes), p // w, p % w))

            return te.compute((n, c, self._cols(), lane), pixel, name="out")
        return te.compute(
            (n, c, h, w, lane), lambda i, co, y, x, ci: self.body.result((i, Chan(co, ci, lanes), y, x)), name="out"
        )

    # schedule --------------------------------------------------------------------------------------------------

    def schedule(self, sch: Any, cores: int, padded: bool) -> None:
        k, s = self.knobs, self.shape
        out, acc = sch.get_sblock("out"), sch.get_sblock("acc")
        sch.set_scope(acc, 0, "local")
        if s.flat:
            n, co, x, ci = sch.get_loops(out)
            y_o, x_o, x_i = sch.split(x, [None, k["rows"], k["reg_n"]])
            inner = [x_o]
        else:
            n, co, y, x, ci = sch.get_loops(out)
            y_o, y_i = sch.split(y, [None, k["rows"]])
            x_o, x_i = sch.split(x, [None, k["reg_n"]])
            inner = [y_i, x_o]
        co_o, co_t = sch.split(co, [None, k["oc_t"]])
        outer = [n, co_o, y_o] if k["order"] == 0 else [n, y_o, co_o]
        sch.reorder(*outer, *inner, x_i, co_t, ci)
        task = parallelise(sch, sch.fuse(*self.shared(outer)), cores, self.device.cores, even=self.even)
        sch.compute_at(acc, task if k["stream"] else inner[-1], preserve_unit_loops=True)
        if padded:
            self.place_copy(sch, task, cores)
        sch.vectorize(ci)
        sch.unroll(co_t)
        sch.unroll(x_i)
        if k["stream"]:
            self.schedule_streaming(sch, acc)
        else:
            self.schedule_accumulation(sch, acc)
        if s.flat:
            sch.transform_layout(
                out, ("write", 0),
                lambda n, c, p, i: (n, c, self._pixel(p) // s.ow, self._pixel(p) % s.ow, i),
                assume_injective_transform=True,  # pixels that are computed twice are written twice, and equal
            )  # fmt: skip

    even = False  # whether tasks must be dealt out without a condition

    def shared(self, outer: Sequence[Any]) -> Sequence[Any]:
        """Those of the outer loops whose iterations are tasks."""
        return outer

    def place_copy(self, sch: Any, task: Any, cores: int) -> None:
        """Copy the image before all tasks where its pixels form one row; else what a task needs inside that task."""
        copy = sch.get_sblock("pad")
        blocked = bool(block_of(self.source().layout))
        if self.shape.flat:
            parallelise(sch, sch.fuse(*sch.get_loops(copy)[:3]), cores, self.device.cores)
        else:
            sch.compute_at(copy, task)
        lane = sch.get_loops(copy)[-1]
        # With groups that cut through blocks of channels, how many of a block a task reads may depend on the task.
        if blocked and isinstance(sch.get(lane).extent, tirx.IntImm):
            sch.vectorize(lane)

    def schedule_streaming(self, sch: Any, acc: Any) -> None:
        """Input channels outermost: each slice of the weights is read once per task, from memory at an even pace.

        The task's accumulators wait in the first-level cache between slices.
        """
        loops = sch.get_loops(acc)
        _, _, y, x, lane, ico, kh, kw, ici = loops[-9:]
        x_o, x_i = sch.split(x, [None, self.knobs["reg_n"]])
        slices, rest = sch.split(ico, [None, self.knobs["stream"]])
        sch.reorder(slices, y, x_o, rest, kh, kw, ici, x_i, lane)
        sch.unroll(x_i)
        sch.vectorize(lane)
        if self.shape.kw > 1:
            sch.unroll(kw)
        init = sch.decompose_reduction(acc, slices)
        *_, init_x, init_lane = sch.get_loops(init)
        sch.unroll(init_x)
        sch.vectorize(init_lane)

    def schedule_accumulation(self, sch: Any, acc: Any) -> None:
        """The innermost loops: a register tile of columns x vectors while the input channels stream by."""
        loops = sch.get_loops(acc)
        count, kw = reductions(self.window, block_of(self.source().layout))
        reduced, (col, lane) = loops[-count:], loops[-count - 2 : -count]
        sch.reorder(*reduced, col, lane)
        sch.unroll(col)
        sch.vectorize(lane)
        if self.shape.kw > 1:
            sch.unroll(reduced[kw])
        init = sch.decompose_reduction(acc, reduced[0])
        init_loops = sch.get_loops(init)
        sch.unroll(init_loops[-2])
        sch.vectorize(init_loops[-1])
