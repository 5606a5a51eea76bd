"""1x1 convolution behind elementwise layers (DenseNet's scale, shift and Relu), whose result never leaves the cache.

One task computes ``rows`` register tiles of pixels for all output channels: first what the convolution reads of these
pixels, for all input channels, into a buffer of the task's own, then tile by tile as in ``conv2d``.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import te

from tuner.graph.ir import Graph, Layer
from tuner.kernels import dot, pairs
from tuner.kernels import math as fast
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv2d import ConvBuilder, register_tiles
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.conv_weights import pack_weights
from tuner.kernels.epilogue import fusable_elementwise
from tuner.kernels.rounding import to_bf16
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.views import Chan
from tuner.plan.layout import block_of
from tuner.precision import BF16_DOT
from tuner.types import Device


class Conv2dPrologue(KernelTemplate):
    """Elementwise layers of an image's shape, a 1x1 convolution that reads each pixel once, elementwise layers."""

    name = "conv2d_prologue"
    version = 1
    heavy = frozenset({"Conv"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        convs = [x for x in workload.layers if x.op == "Conv"]
        if len(convs) != 1 or len(workload.outputs) != 1:
            return False
        (conv,) = convs
        if any(t.dtype != "float32" for t in workload.tensors.values()) or not _pointwise(workload, conv):
            return False
        before = _before(workload, conv)
        if before is None or block_of(layouts[workload.outputs[0]]) != device.lanes:
            return False
        read = {n for x in before for n in x.inputs if n in workload.inputs}
        image = workload.tensors[conv.inputs[0]].shape
        if any(block_of(layouts[n]) != device.lanes for n in read if workload.tensors[n].shape == image):
            return False
        shape = workload.tensors[conv.outputs[0]].shape
        made = {n for x in before for n in x.outputs}
        after = [x for x in workload.layers if x is not conv and x not in before]
        return not any(n in made for x in after for n in x.inputs) and all(
            fusable_elementwise(workload, x) and workload.tensors[x.outputs[0]].shape == shape for x in after
        )

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        shape = ConvShape.of(workload, _conv(workload))
        tiles, tile, rule = register_tiles(shape, device)
        width = shape.oh * shape.ow
        rows = sorted({n for n in (1, 2, 4, 8, 16) if n * min(tiles["reg_n"]) <= width})
        # Enough tasks for the cores, and a buffer that leaves room for the weights in the second-level cache.
        fitting = [
            r for r in rows
            if -(-width // (r * tile["reg_n"])) * shape.n >= 4 * device.cores
            and r * tile["reg_n"] * shape.ic * 4 <= device.l2 // 4
        ]  # fmt: skip
        return Space({**tiles, "rows": rows}, {**tile, "rows": max(fitting, default=rows[0])}, rule)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return _Builder(workload, layouts, knobs, device, self.precision).kernel(cores)


def _conv(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op == "Conv")


def _pointwise(workload: Graph, conv: Layer) -> bool:
    """Whether a convolution reads each pixel of an image once, by weights that are constant."""
    weights = conv.inputs[1]
    if len(workload.tensors[conv.outputs[0]].shape) != 4 or not workload.is_constant(weights):
        return False
    shape = ConvShape.of(workload, conv)
    once = (shape.kh, shape.kw, *shape.stride, shape.groups) == (1,) * 5 and not any(shape.pads)
    return once and workload.constants[weights].value is None


def _before(workload: Graph, conv: Layer) -> list[Layer] | None:
    """The layers that a convolution's input comes from, at least one; None if they are not all elementwise."""
    found: list[Layer] = []
    todo, shape = [conv.inputs[0]], workload.tensors[conv.inputs[0]].shape
    while todo:
        name = todo.pop()
        if name in workload.constants:
            if workload.constants[name].elements > prod(shape[1:]):
                return None
        elif workload.tensors[name].shape != shape:
            if name not in workload.inputs or workload.tensors[name].shape != (*shape[:2], 1, 1):
                return None  # a gate, one number a channel, may come from outside
        elif name in workload.producer and workload.producer[name] not in found:
            layer = workload.producer[name]
            if not fusable_elementwise(workload, layer):
                return None
            found.append(layer)
            todo += [n for n in layer.inputs if n]
    return found or None


class Conv2dPrologueDot(Conv2dPrologue):
    """The same with products of bfloat16, two at a time: what the convolution reads is rounded as it is made."""

    name = "conv2d_prologue_dot"
    version = 1
    precision = BF16_DOT

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        return super().accepts(workload, layouts, device) and pairs.serves(workload, _conv(workload), device)

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        shape = ConvShape.of(workload, _conv(workload))
        found = super().space(workload, layouts, device)

        rows = [r for r in found.knobs["rows"] if dot.even(shape, {**found.default, "rows": r})]
        default = {**found.default, "rows": max(r for r in rows if r <= max(found.default["rows"], rows[0]))}
        return Space(found.knobs, default, lambda k: dot.even(shape, k) and found.rule(k))

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return _DotBuilder(workload, layouts, knobs, device, self.precision).kernel(cores)


class _Builder(ConvBuilder):
    def kernel(self, cores: int) -> Kernel:
        out = self.output(self._products(self._pixels()))
        tensors, args = self.body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        self._schedule(sch, cores)
        return Kernel(module, sch, args, self.body.packs)

    def _pixels(self) -> te.Tensor:
        """What the convolution reads, by columns of the long row of pixels."""
        s, lanes, name = self.shape, self.device.lanes, self.conv.inputs[0]

        def pixel(n: Any, co: Any, column: Any, ci: Any) -> Any:
            p = self._pixel(column)
            return self.body.read(name, (n, Chan(co, ci, lanes), p // s.ow, p % s.ow))

        return te.compute((s.n, -(-s.ic // lanes), self._cols(), lanes), pixel, name="pre")

    def _products(self, pre: te.Tensor) -> te.Tensor:
        s, ob, lanes = self.shape, self.ob, self.device.lanes
        weights = self.body.weights(self.conv.inputs[1], *pack_weights(s, ob, self.window, lanes), self.precision)
        ico = te.reduce_axis((0, -(-s.ic // lanes)), "ico")
        ici = te.reduce_axis((0, lanes), "ici")
        return te.compute(
            (s.n, -(-s.oc // ob), 1, self._cols(), ob),
            lambda n, o, _, x, i: te.sum(pre(n, ico, x, ici) * weights(o, ico, 0, 0, ici, i), axis=[ico, ici]),
            name="acc",
        )

    def _schedule(self, sch: Any, cores: int) -> None:
        k, s = self.knobs, self.shape
        out, acc, pre = (sch.get_sblock(name) for name in ("out", "acc", "pre"))
        sch.set_scope(acc, 0, "local")
        n, co, x, ci = sch.get_loops(out)
        band, x_o, x_i = sch.split(x, [None, k["rows"], k["reg_n"]])
        co_o, co_t = sch.split(co, [None, k["oc_t"]])
        sch.reorder(n, band, co_o, x_o, x_i, co_t, ci)
        task = parallelise(sch, sch.fuse(n, band), cores, self.device.cores, even=self.even)
        sch.compute_at(acc, x_o, preserve_unit_loops=True)
        sch.compute_at(pre, task, preserve_unit_loops=True)
        sch.vectorize(ci)
        sch.unroll(co_t)
        sch.unroll(x_i)
        self._schedule_pixels(sch, pre)
        self.schedule_accumulation(sch, acc)
        sch.transform_layout(
            out, ("write", 0),
            lambda n, c, p, i: (n, c, self._pixel(p) // s.ow, self._pixel(p) % s.ow, i),
            assume_injective_transform=True,  # pixels that are computed twice are written twice, and equal
        )  # fmt: skip

    def _schedule_pixels(self, sch: Any, pre: Any) -> None:
        sch.vectorize(sch.get_loops(pre)[-1])

    def schedule_accumulation(self, sch: Any, acc: Any) -> None:
        loops = sch.get_loops(acc)
        reductions, (col, lane) = loops[-2:], loops[-4:-2]
        sch.reorder(*reductions, col, lane)
        sch.unroll(col)
        sch.vectorize(lane)
        init = sch.decompose_reduction(acc, reductions[0])
        *_, init_col, init_lane = sch.get_loops(init)
        sch.unroll(init_col)
        sch.vectorize(init_lane)


class _DotBuilder(_Builder):
    """With pairs of channels side by side, rounded, and the instruction in the innermost loops."""

    even = True

    def _pixels(self) -> te.Tensor:
        s, lanes, name = self.shape, self.device.lanes, self.conv.inputs[0]

        def pixel(n: Any, co: Any, column: Any, i: Any, j: Any) -> Any:
            p = self._pixel(column)
            return to_bf16(self.body.read(name, (n, Chan(co, i * 2 + j, lanes), p // s.ow, p % s.ow)))

        return te.compute((s.n, -(-s.ic // lanes), self._cols(), lanes // 2, 2), pixel, name="pre")

    def _products(self, pre: te.Tensor) -> te.Tensor:
        s, ob, lanes = self.shape, self.ob, self.device.lanes
        weights = pairs.PAIRS.weights(self.body, self.conv.inputs[1], *pack_weights(s, ob, self.window, lanes))
        axes = [te.reduce_axis((0, e), n) for e, n in ((-(-s.ic // lanes), "ico"), (lanes // 2, "icp"), (2, "pair"))]
        ico, icp, pair = axes

        def product(n: Any, o: Any, _: Any, x: Any, i: Any) -> Any:
            value = fast.from_bf16(pre(n, ico, x, icp, pair))
            return te.sum(value * fast.from_bf16(weights(o, ico, 0, 0, icp, i, pair)), axis=axes)

        return te.compute((s.n, -(-s.oc // ob), 1, self._cols(), ob), product, name="acc")

    def _schedule_pixels(self, sch: Any, pre: Any) -> None:
        sch.vectorize(sch.fuse(*sch.get_loops(pre)[-2:]))

    def schedule_accumulation(self, sch: Any, acc: Any) -> None:
        *_, col, lane, ico, icp, pair = sch.get_loops(acc)
        dot.accumulate(sch, acc, pairs.PAIRS, (ico, icp), col, lane, pair)
