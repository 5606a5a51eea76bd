"""3x3 stride-1 convolutions by Winograd's F(m x m, 3 x 3): 2.25 (m = 2) or 4 (m = 4) times fewer multiplications.

Stages: pad, input transform V = B^T d B, one matrix product per point of the transform, output transform, epilogue.
Output tiles are grouped into blocks of ``bh`` x ``bw``: all transformed data of one block stays in the second-level
cache while the transformed weights U stream by. Two parallel schemes: ``scheme`` 0 gives each task a block, from
padding to output; ``scheme`` 1 first transforms the whole input on all cores and then gives each task output channels
of a block, so that every core reads only its share of U: for small images with large weights.

Rounding errors grow with m: about 1e-6 (m = 2) and 3e-5 (m = 4) of outputs with standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.epilogue import Body, anchored
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.views import Chan
from tuner.plan.layout import Pack, block_of
from tuner.plan.winograd import A_T, B_T
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
        plain = (s.kh, s.kw, s.stride, s.dilation, s.groups) == (3, 3, (1, 1), (1, 1), 1)
        blocks = {block_of(layouts[n]) for n in (conv.inputs[0], workload.outputs[0])}
        return plain and blocks == {device.lanes} and s.ic >= device.lanes and s.oc >= device.lanes

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        s = ConvShape.of(workload, _conv(workload))
        height, width = -(-s.oh // 2), -(-s.ow // 2)
        chunks = -(-s.oc // device.lanes)
        sides = sorted({1, 2, 4, 7, 14, 28} | {-(-x // d) for x in (s.oh, s.ow) for d in (2, 4, 8)})
        knobs = {
            "m": [2, 4],
            "bh": [b for b in sides if b <= height],
            "bw": [b for b in sides if b <= width],
            "oc_t": [t for t in (1, 2, 4) if chunks % t == 0],
            "reg_n": list(range(4, 15)),
            "scheme": [0, 1],
        }
        rule = _Rule(s, device)
        return Space(knobs, rule.default(knobs), rule)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return _Builder(workload, layouts, knobs, device).kernel(cores)


def _conv(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op == "Conv")


def _blocks(shape: ConvShape, k: Knobs) -> tuple[int, int]:
    """Blocks of tiles down and across."""
    return ceil(ceil(shape.oh / k["m"]) / k["bh"]), ceil(ceil(shape.ow / k["m"]) / k["bw"])


class _Rule:
    """Which knobs can be any good: tiles fill their blocks and registers, and a block's data fit the cache."""

    def __init__(self, shape: ConvShape, device: Device) -> None:
        self.shape, self.device = shape, device

    def __call__(self, k: Knobs) -> bool:
        s, m = self.shape, k["m"]
        rows, cols = -(-s.oh // m), -(-s.ow // m)
        if k["bh"] > rows or k["bw"] > cols or k["oc_t"] * k["reg_n"] > self.device.registers - 2:
            return False
        tiles = k["bh"] * k["bw"]
        if tiles % k["reg_n"] and not (tiles < 4 and k["reg_n"] == 4):
            return False
        covered = -(-rows // k["bh"]) * k["bh"] * -(-cols // k["bw"]) * k["bw"]
        points = (m + 2) ** 2
        data = points * tiles * (s.ic + self.device.lanes * k["oc_t"]) * 4
        return covered * 7 <= rows * cols * 9 and tiles >= 4 and data <= 2 * self.device.l2

    def default(self, knobs: dict[str, list[int]]) -> dict[str, int]:
        """The point with the least estimated work: products and transforms, and U read once per block."""
        best: tuple[float, dict[str, int]] | None = None
        for m in knobs["m"]:
            for bh in knobs["bh"]:
                for bw in knobs["bw"]:
                    for oc_t in knobs["oc_t"]:
                        for reg_n in knobs["reg_n"]:
                            point = {"m": m, "bh": bh, "bw": bw, "oc_t": oc_t, "reg_n": reg_n, "scheme": 0}
                            if oc_t <= 2 and self(point):
                                found = self._cost(point), point | {"scheme": self._scheme(point)}
                                best = found if best is None or found[0] < best[0] else best
        if best is None:
            return {"m": 2, "bh": 1, "bw": 1, "oc_t": 1, "reg_n": 4, "scheme": 0}
        return best[1]

    def _scheme(self, k: Knobs) -> int:
        rows, cols = _blocks(self.shape, k)
        blocks = rows * cols
        return 0 if blocks >= 2 * self.device.cores else 1

    def _cost(self, k: Knobs) -> float:
        s, m = self.shape, k["m"]
        rows, cols = -(-s.oh // m), -(-s.ow // m)
        blocks = -(-rows // k["bh"]) * -(-cols // k["bw"])
        tiles, points = k["bh"] * k["bw"], (m + 2) ** 2
        products = points * blocks * tiles * s.ic * s.oc
        loads = max(1 / k["oc_t"] + 1 / k["reg_n"], 0.6) / min(k["oc_t"] * k["reg_n"] / 10, 1)
        weights = points * s.ic * s.oc * (1 + 0.25 * (blocks - 1))
        return products * loads + 30 * weights + 12 * points * blocks * tiles * (s.ic + s.oc)


class _Builder:
    def __init__(self, workload: Graph, layouts: Layouts, knobs: Knobs, device: Device) -> None:
        self.workload, self.layouts, self.knobs, self.device = workload, layouts, knobs, device
        self.conv = _conv(workload)
        self.shape = ConvShape.of(workload, self.conv)
        self.body = Body(workload, layouts)

    def kernel(self, cores: int) -> Kernel:
        out = self._output(self._product(self._transform()))
        tensors, args = self.body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        self._schedule(sch, cores)
        return Kernel(module, sch, args, self.body.packs)

    # expressions -----------------------------------------------------------------------------------------------

    def _blocks(self) -> tuple[int, int]:
        """Blocks of tiles down and across."""
        return _blocks(self.shape, self.knobs)

    def _transform(self) -> te.Tensor:
        """V[n, block row, block column, u, v, ic block, tile, lane]."""
        s, lanes = self.shape, self.device.lanes
        m, bh, bw = self.knobs["m"], self.knobs["bh"], self.knobs["bw"]
        rows, cols = self._blocks()
        data = self.body.input(self.conv.inputs[0])
        top, left = s.pads[:2]
        icb, a = -(-s.ic // lanes), m + 2

        def pixel(n: Any, cb: Any, y: Any, x: Any, ci: Any) -> Any:
            inside = tirx.all(y >= top, y < s.h + top, x >= left, x < s.w + left)
            value = data.at((n, Chan(cb, ci, lanes), y - top, x - left))
            return tirx.if_then_else(inside, value, tirx.const(0, "float32"))

        pad = te.compute((s.n, icb, rows * bh * m + 2, cols * bw * m + 2, lanes), pixel, name="pad")

        def half(n: Any, by: Any, bx: Any, cb: Any, t: Any, u: Any, x: Any, ci: Any) -> Any:
            y0, x0 = (by * bh + t // bw) * m, (bx * bw + t % bw) * m
            return _rows(B_T[m], u, [pad(n, cb, y0 + r, x0 + x, ci) for r in range(a)])

        v1 = te.compute((s.n, rows, cols, icb, bh * bw, a, a, lanes), half, name="v1")
        return te.compute(
            (s.n, rows, cols, a, a, icb, bh * bw, lanes),
            lambda n, by, bx, u, v, cb, t, ci: _rows(B_T[m], v, [v1(n, by, bx, cb, t, u, r, ci) for r in range(a)]),
            name="v",
        )

    def _product(self, v: te.Tensor) -> te.Tensor:
        """M[n, block row, block column, oc chunk, u, v, tile, channel]: a matrix product per point (u, v)."""
        s, lanes, a = self.shape, self.device.lanes, self.knobs["m"] + 2
        rows, cols = self._blocks()
        icb, ob = -(-s.ic // lanes), lanes * self.knobs["oc_t"]
        chunks = -(-s.oc // ob)
        pack = Pack(
            (
                ("winograd", self.knobs["m"]),
                ("pad", [[0, chunks * ob - s.oc], [0, icb * lanes - s.ic], [0, 0], [0, 0]]),
                ("reshape", [chunks, ob, icb, lanes, a, a]),
                ("transpose", [0, 4, 5, 2, 3, 1]),
            )
        )
        weights = self.body.constant(self.conv.inputs[1], (chunks, a, a, icb, lanes, ob), pack)
        rb, ri = te.reduce_axis((0, icb), "rb"), te.reduce_axis((0, lanes), "ri")
        dims = (s.n, rows, cols, chunks, a, a, self.knobs["bh"] * self.knobs["bw"], ob)
        acc = te.compute(
            dims,
            lambda n, by, bx, o, u, w, t, i: te.sum(
                v(n, by, bx, u, w, rb, t, ri) * weights(o, u, w, rb, ri, i), axis=[rb, ri]
            ),
            name="acc",
        )
        return te.compute(dims, lambda *p: acc(*p), name="m")  # noqa: PLW0108 - te.compute counts the arguments

    def _output(self, product: te.Tensor) -> te.Tensor:
        s, lanes, k = self.shape, self.device.lanes, self.knobs
        m, bh, bw, oc_t = k["m"], k["bh"], k["bw"], k["oc_t"]
        a, (rows, cols), ob = m + 2, self._blocks(), lanes * oc_t
        chunks, tiles = -(-s.oc // ob), bh * bw
        z1 = te.compute(
            (s.n, rows, cols, chunks, tiles, m, a, ob),
            lambda n, by, bx, o, t, p, w, i: _rows(A_T[m], p, [product(n, by, bx, o, r, w, t, i) for r in range(a)]),
            name="z1",
        )
        z = te.compute(
            (s.n, rows, cols, chunks, tiles, m, m, ob),
            lambda n, by, bx, o, t, p, q, i: _rows(A_T[m], q, [z1(n, by, bx, o, t, p, r, i) for r in range(a)]),
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
