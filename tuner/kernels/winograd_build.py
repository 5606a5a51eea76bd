"""How the Winograd template writes a kernel: its stages as tensor expressions, and their schedule.

Pad, input transform V = B^T d B, one matrix product per point of the transform, output transform, epilogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, Knobs, Layouts
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.epilogue import Body
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.views import Chan
from tuner.kernels.winograd_tiles import Tiling
from tuner.plan.layout import Pack
from tuner.plan.winograd import matrices
from tuner.types import Device


class WinogradBuilder:
    """Writes one kernel, the stages first, then their schedule."""

    def __init__(self, workload: Graph, layouts: Layouts, knobs: Knobs, device: Device, conv: Layer) -> None:
        self.knobs, self.device, self.conv = knobs, device, conv
        self.shape = ConvShape.of(workload, conv)
        self.tiling = Tiling.of(self.shape, knobs)
        self.matrices = matrices(self.tiling.m, self.shape.kh, self.tiling.step)
        self.body = Body(workload, layouts)

    def kernel(self, cores: int) -> Kernel:
        out = self._output(self._product(self._transform()))
        tensors, args = self.body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        self._schedule(sch, cores)
        return Kernel(module, sch, args, self.body.packs)

    # expressions -----------------------------------------------------------------------------------------------

    def _transform(self) -> te.Tensor:
        """V[n, block row, block column, u, v, ic block, tile, lane]."""
        s, lanes = self.shape, self.device.lanes
        bh, bw, a = self.tiling.bh, self.tiling.bw, self.tiling.side
        far = self.tiling.m * self.tiling.step  # pixels from one tile to the next
        rows, cols = self.tiling.blocks
        data = self.body.input(self.conv.inputs[0])
        top, left = s.pads[:2]
        icb, b_t = -(-s.ic // lanes), self.matrices.b_t

        def pixel(n: Any, cb: Any, y: Any, x: Any, ci: Any) -> Any:
            inside = tirx.all(y >= top, y < s.h + top, x >= left, x < s.w + left)
            value = data.at((n, Chan(cb, ci, lanes), y - top, x - left))
            return tirx.if_then_else(inside, value, tirx.const(0, "float32"))

        pad = te.compute((s.n, icb, rows * bh * far + a - far, cols * bw * far + a - far, lanes), pixel, name="pad")

        def half(n: Any, by: Any, bx: Any, cb: Any, t: Any, u: Any, x: Any, ci: Any) -> Any:
            y0, x0 = (by * bh + t // bw) * far, (bx * bw + t % bw) * far
            return _rows(b_t, u, [pad(n, cb, y0 + r, x0 + x, ci) for r in range(a)])

        v1 = te.compute((s.n, rows, cols, icb, bh * bw, a, a, lanes), half, name="v1")
        return te.compute(
            (s.n, rows, cols, a, a, icb, bh * bw, lanes),
            lambda n, by, bx, u, v, cb, t, ci: _rows(b_t, v, [v1(n, by, bx, cb, t, u, r, ci) for r in range(a)]),
            name="v",
        )

    def _transforms(self) -> tuple[int, ...]:
        """What the weights are transformed for."""
        return (self.tiling.m,) if self.tiling.step == 1 else (self.tiling.m, self.tiling.step)

    def _product(self, v: te.Tensor) -> te.Tensor:
        """M[n, block row, block column, oc chunk, u, v, tile, channel]: a matrix product per point (u, v)."""
        s, lanes, a = self.shape, self.device.lanes, self.tiling.side
        rows, cols = self.tiling.blocks
        group_ic, ob = s.ic // s.groups, lanes * self.knobs["oc_t"]
        icb, chunks = -(-group_ic // lanes), -(-s.oc // ob)
        pack = Pack(
            (
                ("winograd", *self._transforms()),
                ("pad", [[0, chunks * ob - s.oc], [0, icb * lanes - group_ic], [0, 0], [0, 0]]),
                ("reshape", [chunks, ob, icb, lanes, a, a]),
                ("transpose", [0, 4, 5, 2, 3, 1]),
            )
        )
        weights = self.body.constant(self.conv.inputs[1], (chunks, a, a, icb, lanes, ob), pack)
        rb, ri = te.reduce_axis((0, icb), "rb"), te.reduce_axis((0, lanes), "ri")
        dims = (s.n, rows, cols, chunks, a, a, self.tiling.tiles, ob)

        def first(o: Any) -> Any:
            """The first block of channels of the group that a chunk lies in."""
            return 0 if s.groups == 1 else o // (chunks // s.groups) * icb

        acc = te.compute(
            dims,
            lambda n, by, bx, o, u, w, t, i: te.sum(
                v(n, by, bx, u, w, first(o) + rb, t, ri) * weights(o, u, w, rb, ri, i), axis=[rb, ri]
            ),
            name="acc",
        )
        return te.compute(dims, lambda *p: acc(*p), name="m")  # noqa: PLW0108 - te.compute counts the arguments

    def _output(self, product: te.Tensor) -> te.Tensor:
        s, lanes, oc_t = self.shape, self.device.lanes, self.knobs["oc_t"]
        m, bh, bw, a, tiles = self.tiling.m, self.tiling.bh, self.tiling.bw, self.tiling.side, self.tiling.tiles
        (rows, cols), ob, a_t = self.tiling.blocks, lanes * oc_t, self.matrices.a_t
        chunks = -(-s.oc // ob)
        z1 = te.compute(
            (s.n, rows, cols, chunks, tiles, m, a, ob),
            lambda n, by, bx, o, t, p, w, i: _rows(a_t, p, [product(n, by, bx, o, r, w, t, i) for r in range(a)]),
            name="z1",
        )
        z = te.compute(
            (s.n, rows, cols, chunks, tiles, m, m, ob),
            lambda n, by, bx, o, t, p, q, i: _rows(a_t, q, [z1(n, by, bx, o, t, p, r, i) for r in range(a)]),
            name="z",
        )
        bias = self.conv.inputs[2] if len(self.conv.inputs) > 2 and self.conv.inputs[2] else None

        def read(index: Sequence[Any]) -> Any:
            n, c, y, x = index
            t = (y // m % bh) * bw + x // m % bw
            lane = (c.outer % oc_t) * lanes + c.inner
            value = z(n, y // (m * bh), x // (m * bw), c.outer // oc_t, t, y % m, x % m, lane)
            return value if bias is None else value + self.body.read(bias, (c,))

        self.body.anchors[self.conv.outputs[0]] = read
        return te.compute(
            (s.n, -(-s.oc // lanes), s.oh, s.ow, lanes),
            lambda n, co, y, x, ci: self.body.result((n, Chan(co, ci, lanes), y, x)),
            name="out",
        )

    # schedule --------------------------------------------------------------------------------------------------

    def _schedule(self, sch: Any, cores: int) -> None:
        k = self.knobs
        n, co, y, x, ci = sch.get_loops("out")
        y_o, y_i = sch.split(y, [None, k["bh"] * k["m"]])
        x_o, x_i = sch.split(x, [None, k["bw"] * k["m"]])
        co_o, co_t = sch.split(co, [None, k["oc_t"]])
        if k["scheme"] == 0:
            sch.reorder(n, y_o, x_o, co_o, co_t, y_i, x_i, ci)
            task = chunk = parallelise(sch, sch.fuse(n, y_o, x_o), cores, self.device.cores)
            chunk = co_o
        else:
            sch.reorder(co_o, n, y_o, x_o, co_t, y_i, x_i, ci)
            task = None
            chunk = parallelise(sch, sch.fuse(co_o, n, y_o, x_o), cores, self.device.cores)
        sch.vectorize(ci)
        self._place_output(sch, chunk)
        self._place_product(sch, chunk)
        self._place_input(sch, task, cores)

    def _place_output(self, sch: Any, chunk: Any) -> None:
        sch.compute_at("z", chunk, preserve_unit_loops=True)
        *_, t, p, q, lane = sch.get_loops("z")
        sch.compute_at("z1", t, preserve_unit_loops=True)
        sch.set_scope("z1", 0, "local")
        for name in ("z", "z1"):
            *_, first, second, lane = sch.get_loops(name)
            sch.vectorize(lane)
            sch.unroll(first)
            sch.unroll(second)
        del p, q

    def _place_product(self, sch: Any, chunk: Any) -> None:
        sch.compute_at("m", chunk, preserve_unit_loops=True)
        *_, t, lane = sch.get_loops("m")
        t_o, t_i = sch.split(t, [None, self.knobs["reg_n"]])
        sch.set_scope("acc", 0, "local")
        sch.compute_at("acc", t_o, preserve_unit_loops=True)
        sch.unroll(t_i)
        sch.vectorize(lane)

    def _place_input(self, sch: Any, task: Any, cores: int) -> None:
        if task is None:
            n, by, bx, u, v, cb, t, ci = sch.get_loops("v")
            sch.reorder(n, by, bx, cb, t, u, v, ci)
            task = parallelise(sch, sch.fuse(n, by, bx, cb), cores, self.device.cores)
        else:
            sch.compute_at("v", task, preserve_unit_loops=True)
            u, v, cb, t, ci = sch.get_loops("v")[-5:]
            sch.reorder(cb, t, u, v, ci)
        sch.compute_at("v1", t, preserve_unit_loops=True)
        sch.set_scope("v1", 0, "local")
        sch.compute_at("pad", task, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops("pad")[-1])
        for name in ("v", "v1"):
            *_, first, second, lane = sch.get_loops(name)
            sch.vectorize(lane)
            sch.unroll(first)
            sch.unroll(second)
        *_, t_i, lane, rb, ri = sch.get_loops("acc")
        sch.reorder(rb, ri, t_i, lane)
        sch.unroll(t_i)
        sch.vectorize(lane)
        init = sch.decompose_reduction("acc", rb)
        sch.vectorize(sch.get_loops(init)[-1])
        sch.unroll(sch.get_loops(init)[-2])


def _rows(matrix: Sequence[Sequence[float]], row: Any, values: Sequence[Any]) -> Any:
    """Row ``row`` (an unrolled loop) of matrix x values: a choice among all rows, of which unrolling leaves one."""
    sums = [_combine(weights, values) for weights in matrix]
    chosen = sums[-1]
    for index in reversed(range(len(sums) - 1)):
        chosen = tirx.Select(row == index, sums[index], chosen)
    return chosen


def _combine(weights: Sequence[float], values: Sequence[Any]) -> Any:
    total: Any = None
    for weight, value in zip(weights, values, strict=True):
        if weight == 0:
            continue
        if total is None:
            total = value if weight == 1 else value * tirx.const(float(weight), "float32")
        elif weight == 1:
            total = total + value
        elif weight == -1:
            total = total - value
        else:
            total = total + value * tirx.const(float(weight), "float32")
    return total
