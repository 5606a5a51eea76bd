"""Writes one kernel of two convolutions; see ``conv_chain``.

Stages: "pad" (rows of the image that a band reads, zeros around it), "acc_a" and "act" (the first convolution and its
elementwise layers), "mid" (the same with zeros around it, where the second has a border), "acc_b" and "out". Bands are
an axis of their own of all but the output, so that every index of a buffer is a number of rows from the band's first,
and neighbouring bands hold their own copies of the halo. Pixels of a band are seen as one long row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import ceil
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, Knobs, Layouts
from tuner.kernels.conv_chain_shape import ChainShape, Pair, is_bordered, is_depthwise, step
from tuner.kernels.conv_products import reductions, sum_products
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.conv_weights import Groups, groups_of, pack_weights
from tuner.kernels.epilogue import Body
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.views import Chan, chan, flat
from tuner.plan.layout import Pack, block_of
from tuner.types import Device

Source = Callable[..., Any]  # (image, band, channel, pixel of the band, tap) -> element that the tap's weight meets


class ChainBuilder:
    def __init__(self, workload: Graph, layouts: Layouts, knobs: Knobs, device: Device, pair: Pair) -> None:
        self.workload, self.pair, self.knobs, self.device = workload, pair, knobs, device
        self.shape = ChainShape.of(workload, pair)
        self.body = Body(workload, layouts)
        self.lanes, self.rows = device.lanes, knobs["rows"]
        self.bands = self.shape.bands(self.rows)
        self.height = self.shape.height(self.rows)
        self._band: Any = None  # and pixel of the buffers that the elementwise layers are asked for
        self._column: Any = None

    def kernel(self, cores: int) -> Kernel:
        first, second = self.shape.first, self.shape.second
        ahead, behind = self.shape.pixels(self.rows)
        image, padded = self._image()
        acc_a = self._accumulate(self.pair.first, first, "a", self._copied(ahead, "a"), image)
        act = self._activations(acc_a, ahead)
        between, bordered = self._between(act)
        acc_b = self._accumulate(self.pair.second, second, "b", self._moved(behind, "b"), between)
        out = self._output(self.pair.second, second, "b", acc_b, behind)
        tensors, args = self.body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        self._schedule(sch, cores, padded, bordered)
        return Kernel(module, sch, args, self.body.packs)

    # geometry --------------------------------------------------------------------------------------------------

    def _top(self, band: Any) -> Any:
        """The first output row of a band."""
        last = self.shape.second.oh - self.rows
        return band * self.rows if self.shape.second.oh % self.rows == 0 else te.min(band * self.rows, last)

    def _reached(self, band: Any) -> Any:
        """The first row of the image in between that a band reads; outside of it where the second has a border."""
        return self._top(band) * self.shape.second.stride[0] - self.shape.second.pads[0]

    def _from(self, band: Any) -> Any:
        """The first row of the image in between that a band computes."""
        last = self.shape.first.oh - self.height
        if last == 0:
            return 0
        if not is_bordered(self.shape.second):
            return self._reached(band)
        return te.max(te.min(self._reached(band), last), 0)

    @cached_property
    def _guarded(self) -> bool:
        """Whether the second convolution reads the image in between where it lies, without a copy with zeros around it.

        Rows outside of the image are then held, as zeros; whether a column is inside is asked tap by tap, and known
        beforehand for all but the first and last pixels of a row.
        """
        first, second = self.shape.first, self.shape.second
        whole_tiles = first.ow % self.knobs["reg_a"] == 0 and second.ow % self.knobs["reg_b"] == 0
        whole_rows = self.shape.reach(self.rows) == self.height
        return self.shape.apart and is_bordered(second) and not is_bordered(first) and whole_tiles and whole_rows

    def _row(self, band: Any, number: Any) -> Any:
        """Row of the image in between from which a band's row of that number is computed, or would be if inside."""
        if not self._guarded:
            return self._from(band) + number
        return te.max(te.min(self._reached(band) + number, self.shape.first.oh - 1), 0)

    def _copied(self, pixels: int, side: str) -> Callable[[Any], Any]:
        """Column of the accumulators -> pixel of the band; columns beyond the last pixel compute that one again."""
        return lambda column: column if pixels % self.knobs[f"reg_{side}"] == 0 else te.min(column, pixels - 1)

    def _moved(self, pixels: int, side: str) -> Callable[[Any], Any]:
        """The same for the output, whose last tile is moved back to end with the band."""
        tile = self.knobs[f"reg_{side}"]
        if pixels % tile == 0:
            return lambda column: column
        return lambda column: te.min(column // tile * tile, pixels - tile) + column % tile

    def _columns(self, side: str) -> int:
        """Pixels of a band, rounded up to whole register tiles."""
        reg = self.knobs[f"reg_{side}"]
        return ceil(self.shape.pixels(self.rows)[side != "a"] / reg) * reg

    # stages ----------------------------------------------------------------------------------------------------

    def _image(self) -> tuple[Source, bool]:
        """How the first convolution reads its input, and whether from a copy with zeros around it."""
        s, data = self.shape.first, self.body.input(self.pair.first.inputs[0])
        (sy, sx), (dy, dx), (top, left, _, _) = s.stride, s.dilation, s.pads

        def place(pixel: Any, tap: Any) -> tuple[Any, Any]:
            return pixel // s.ow * sy + tap[0] * dy, pixel % s.ow * sx + tap[1] * dx

        if not is_bordered(s):

            def direct(n: Any, band: Any, c: Any, pixel: Any, tap: Any) -> Any:
                row, x = self._row(band, pixel // s.ow), place(pixel, tap)[1]
                return data.at((n, c, row * sy + tap[0] * dy, x))

            return direct, False

        block = self.lanes if is_depthwise(s) else block_of(data.layout)
        size = (self.height - 1) * sy + (s.kh - 1) * dy + 1, s.reach[1]

        def element(n: Any, band: Any, c: Any, row: Any, column: Any) -> Any:
            y, x = self._from(band) * sy - top + row, column - left
            inside = tirx.all(y >= 0, y < s.h, x >= 0, x < s.w)
            return tirx.if_then_else(inside, data.at((n, c, y, x)), tirx.const(0, "float32"))

        if block:
            dims = (s.n, self.bands, ceil(s.ic / block), *size, block)
            copy = te.compute(dims, lambda n, b, co, y, x, ci: element(n, b, Chan(co, ci, block), y, x), name="pad")
            return lambda n, b, c, p, tap: copy(n, b, c.outer, *place(p, tap), c.inner), True
        copy = te.compute((s.n, self.bands, s.ic, *size), element, name="pad")
        return lambda n, b, c, p, tap: copy(n, b, flat(c), *place(p, tap)), True

    def _accumulate(
        self, conv: Layer, s: ConvShape, side: str, pixel: Callable[[Any], Any], source: Source
    ) -> te.Tensor:
        """Sums of products, [image, band, chunk of channels, column, channel]."""
        columns = self._columns(side)
        if is_depthwise(s):
            kh, kw = te.reduce_axis((0, s.kh), f"kh_{side}"), te.reduce_axis((0, s.kw), f"kw_{side}")
            weights = self.body.constant(conv.inputs[1], *_pack_depthwise(s, self.lanes))
            chunks = ceil(s.oc / self.lanes)
            return te.compute(
                (s.n, self.bands, chunks, columns, self.lanes),
                lambda n, b, o, x, i: te.sum(
                    source(n, b, Chan(o, i, self.lanes), pixel(x), _tap(s, kh, kw)) * weights(o, kh, kw, i),
                    axis=[kh, kw],
                ),
                name=f"acc_{side}",
            )
        ob, window, block = self._window(s, side)
        weights = self.body.constant(conv.inputs[1], *pack_weights(s, ob, window, block))

        def read(index: Sequence[Any], c: Any, tap: tuple[Any, Any]) -> Any:
            n, band, _, x, _ = index
            return source(n, band, c, pixel(x), _tap(s, *tap))

        dims = (s.n, self.bands, ceil(s.oc / ob), columns, ob)
        return sum_products(s, window, block, dims, read, weights, chunk=2, side=side)

    def _window(self, s: ConvShape, side: str) -> tuple[int, Groups, int]:
        """Of a convolution not depthwise: channels and groups of a chunk, and channels per block of its image."""
        ob = self.lanes * self.knobs[f"oc_{side}"]
        return ob, groups_of(s, ob), self._block(side)

    def _block(self, side: str) -> int:
        """Channels per block of what a convolution reads."""
        return self.lanes if side != "a" else block_of(self.body.input(self.pair.first.inputs[0]).layout)

    def _anchor(self, conv: Layer, side: str, acc: te.Tensor) -> None:
        """Let the layers behind a convolution read its accumulators, bias added."""
        vectors, lanes = self.knobs[f"oc_{side}"], self.lanes
        bias = conv.inputs[2] if len(conv.inputs) > 2 and conv.inputs[2] else None

        def read(index: Sequence[Any]) -> Any:
            n, c, _, _ = index
            c = chan(c, lanes)
            value = acc(n, self._band, c.outer // vectors, self._column, (c.outer % vectors) * lanes + c.inner)
            return value if bias is None else value + self.body.read(bias, (c,))

        self.body.anchors[conv.outputs[0]] = read

    def _activations(self, acc: te.Tensor, pixels: int) -> te.Tensor:
        """What a band needs of the image in between, one long row of pixels."""
        s, pixel = self.shape.first, self._copied(pixels, "a")
        self._anchor(self.pair.first, "a", acc)

        def element(n: Any, band: Any, *rest: Any) -> Any:
            *_, co, column, ci = rest
            self._band, self._column, p = band, column, pixel(column)
            place = (self._row(band, p // s.ow), p % s.ow)
            value = self.body.read(self.pair.middle, (n, Chan(co, ci, self.lanes), *place))
            if not self._guarded:
                return value
            row = self._reached(band) + p // s.ow
            return tirx.if_then_else(tirx.all(row >= 0, row < s.oh), value, tirx.const(0, "float32"))

        dims = (s.n, self.bands, *self._ones, ceil(s.oc / self.lanes), self._columns("a"), self.lanes)
        return te.compute(dims, element, name="act")

    @property
    def _ones(self) -> tuple[int, ...]:
        """Dimensions of "act" that hold nothing: it has as many as who reads it, so that TVM lets us say of what."""
        return (1, 1) if self._guarded else (1,)

    def _between(self, act: te.Tensor) -> tuple[Source, bool]:
        """How the second convolution reads the first's activations, and whether from a copy with zeros around them."""
        s = self.shape.second
        (sy, sx), (dy, dx), (_, left, _, _) = s.stride, s.dilation, s.pads
        if self._guarded:

            def guarded(n: Any, band: Any, c: Chan, pixel: Any, tap: Any) -> Any:
                row, x = pixel // s.ow * sy + tap[0] * dy, pixel % s.ow * sx + tap[1] * dx - left
                value = act(n, band, 0, 0, c.outer, row * s.w + te.max(te.min(x, s.w - 1), 0), c.inner)
                return tirx.Select(tirx.all(x >= 0, x < s.w), value, tirx.const(0, "float32"))

            return guarded, False
        if not is_bordered(s):
            pointwise = s.kh * s.kw == 1 and s.stride == (1, 1)

            def direct(n: Any, band: Any, c: Chan, pixel: Any, tap: Any) -> Any:
                place = (pixel // s.ow * sy + tap[0] * dy) * s.w + pixel % s.ow * sx + tap[1] * dx
                return act(n, band, 0, c.outer, pixel if pointwise else place, c.inner)

            return direct, False

        def element(n: Any, band: Any, co: Any, row: Any, column: Any, ci: Any) -> Any:
            y, x = self._reached(band) + row, column - left
            inside = tirx.all(y >= 0, y < s.h, x >= 0, x < s.w)
            value = act(n, band, 0, co, (y - self._from(band)) * s.w + x, ci)
            return tirx.if_then_else(inside, value, tirx.const(0, "float32"))

        size = (self.shape.reach(self.rows), s.reach[1])
        mid = te.compute((s.n, self.bands, ceil(s.ic / self.lanes), *size, self.lanes), element, name="mid")
        return lambda n, b, c, p, tap: mid(
            n, b, c.outer, p // s.ow * sy + tap[0] * dy, p % s.ow * sx + tap[1] * dx, c.inner
        ), True

    def _output(self, conv: Layer, s: ConvShape, side: str, acc: te.Tensor, pixels: int) -> te.Tensor:
        """The kernel's result, band by band; the schedule gives the buffer its true shape in the end."""
        pixel = self._moved(pixels, side)
        self._anchor(conv, side, acc)

        def element(n: Any, band: Any, co: Any, column: Any, ci: Any) -> Any:
            self._band, self._column, p = band, column, pixel(column)
            place = (self._top(band) + p // s.ow, p % s.ow)
            return self.body.result((n, Chan(co, ci, self.lanes), *place))

        dims = (s.n, self.bands, ceil(s.oc / self.lanes), self._columns(side), self.lanes)
        return te.compute(dims, element, name="out")

    # schedule --------------------------------------------------------------------------------------------------

    def _schedule(self, sch: Any, cores: int, padded: bool, bordered: bool) -> None:
        k, apart = self.knobs, self.shape.apart
        out, acc_b, act, acc_a = (sch.get_sblock(b) for b in ("out", "acc_b", "act", "acc_a"))
        n, band, co, x, ci = sch.get_loops(out)
        part, co_o, co_t = sch.split(co, [k["parts"], None, step(self.shape, k)])
        x_o, x_i = sch.split(x, [None, k["reg_b"]])
        inner = [co_o, co_t, x_o] if apart else [co_o, x_o] if k["order"] == 0 else [x_o, co_o]
        sch.reorder(n, band, part, *inner, x_i, *([] if apart else [co_t]), ci)
        task = parallelise(sch, sch.fuse(n, band, part), cores, self.device.cores)
        sch.compute_at(acc_b, inner[-1], preserve_unit_loops=True)
        home = co_o if apart else task
        self._place_activations(sch, home, bordered)
        self._schedule_activations(sch, act, acc_a, task, padded)
        sch.vectorize(ci)
        sch.unroll(x_i)
        if not apart:
            sch.unroll(co_t)
        self._schedule_sums(sch, {"a": self.shape.first, "b": self.shape.second})
        self._shape_output(sch, self.shape.second, "b")

    def _schedule_sums(self, sch: Any, sides: Mapping[str, ConvShape]) -> None:
        for side, s in sides.items():
            acc = sch.get_sblock(f"acc_{side}")
            sch.set_scope(acc, 0, "local")
            loops, kw = (2, 1) if is_depthwise(s) else reductions(*self._window(s, side)[1:])
            _schedule_accumulation(sch, acc, s, loops, kw)

    def _shape_output(self, sch: Any, s: ConvShape, side: str) -> None:
        """Give the output its true shape."""
        out, pixel = sch.get_sblock("out"), self._moved(self.shape.pixels(self.rows)[1], side)
        sch.transform_layout(
            out, ("write", 0),
            lambda n, b, c, p, i: (n, c, self._top(b) + pixel(p) // s.ow, pixel(p) % s.ow, i),
            assume_injective_transform=True,  # pixels that are computed twice are written twice, and equal
        )  # fmt: skip

    def _place_activations(self, sch: Any, home: Any, bordered: bool) -> None:
        """Compute what a band needs of the image in between in the loop ``home``, and its copy with zeros around it.

        Who reads it is said to read all pixels of a band: TVM could not tell which.
        """
        columns = self._columns("a")

        def everything(n: Any, b: Any, c: Any, i: Any) -> Any:
            return (n, n + 1), (b, b + 1), *((0, 1) for _ in self._ones), (c, c + 1), (0, columns), (i, i + 1)

        if bordered:
            mid = sch.get_sblock("mid")
            sch.annotate_buffer_access(mid, 0, "read", lambda n, b, c, y, x, i: everything(n, b, c, i))
            sch.compute_at(mid, home)
            sch.vectorize(sch.get_loops(mid)[-1])
        if self._guarded:
            reader = sch.get_sblock("acc_b")
            sch.annotate_buffer_access(reader, 0, "read", lambda n, b, c, x, i, kh, kw: everything(n, b, c, i))
        sch.compute_at(sch.get_sblock("act"), home, preserve_unit_loops=True)

    def _schedule_activations(self, sch: Any, act: Any, acc: Any, task: Any, padded: bool) -> None:
        k, alone = self.knobs, is_depthwise(self.shape.first)
        co, x, ci = sch.get_loops(act)[-3:]
        x_o, x_i = sch.split(x, [None, k["reg_a"]])
        if alone:
            last = x_o
        else:
            co, co_t = sch.split(co, [None, k["oc_a"]])
            inner = [co, x_o] if k["order"] == 0 else [x_o, co]
            sch.reorder(*inner, x_i, co_t, ci)
            sch.unroll(co_t)
            last = inner[-1]
        sch.compute_at(acc, last, preserve_unit_loops=True)
        if padded:
            copy = sch.get_sblock("pad")
            sch.compute_at(copy, co if alone else task)
            if alone or self._block("a"):
                sch.vectorize(sch.get_loops(copy)[-1])
        sch.vectorize(ci)
        sch.unroll(x_i)


def _pack_depthwise(s: ConvShape, lanes: int) -> tuple[tuple[int, ...], Pack]:
    """Shape and packing of the weights [C, 1, KH, KW] of a depthwise convolution."""
    chunks = ceil(s.oc / lanes)
    pack = Pack(
        (
            ("pad", [[0, chunks * lanes - s.oc], [0, 0], [0, 0], [0, 0]]),
            ("reshape", [chunks, lanes, s.kh, s.kw]),
            ("transpose", [0, 2, 3, 1]),
        )
    )
    return (chunks, s.kh, s.kw, lanes), pack


def _tap(s: ConvShape, kh: Any, kw: Any) -> tuple[Any, Any]:
    """A position in the window; none along an axis where it has but one."""
    return (kh if s.kh > 1 else 0, kw if s.kw > 1 else 0)


def _schedule_accumulation(sch: Any, acc: Any, s: ConvShape, count: int, kw: int) -> None:
    """The innermost loops: a register tile of columns x vectors, while channels and taps stream by.

    The ``count`` innermost loops are reductions; that of number ``kw`` runs over the columns of the window.
    """
    loops = sch.get_loops(acc)
    reduced, (column, lane) = loops[-count:], loops[-count - 2 : -count]
    sch.reorder(*reduced, column, lane)
    sch.unroll(column)
    sch.vectorize(lane)
    if is_depthwise(s) and s.kh * s.kw <= 25:
        for loop in reduced:
            sch.unroll(loop)
    elif s.kw > 1:
        sch.unroll(reduced[kw])
    init = sch.decompose_reduction(acc, reduced[0])
    *_, init_column, init_lane = sch.get_loops(init)
    sch.unroll(init_column)
    sch.vectorize(init_lane)
