"""Direct convolution whose products are of bfloat16, two at a time (AVX512-BF16), and whose sums are float32.

As ``conv2d``, with pairs of input channels side by side in image and weights. A 1x1 convolution reads an image that is
stored as bfloat16 where it lies. Else the image is copied, and rounded by that: before all tasks, or (``order`` 2, of
1x1 convolutions) by each task for its own pixels, all output channels of which it then computes, so that what it reads
stays in its core's cache. Of a plain image, whose channels are planes, pairs are packed into numbers of 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels import dot, pairs
from tuner.kernels.base import Kernel, Knobs, Layouts, Space
from tuner.kernels.conv2d import Conv2d, ConvBuilder
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.conv_weights import groups_of, pack_weights
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.views import Chan
from tuner.plan.layout import block_of, is_narrow
from tuner.precision import BF16_DOT
from tuner.types import Device

_OWN = 2  # the value of ``order`` with which tasks round their own pixels


class Conv2dDot(Conv2d):
    name = "conv2d_dot"
    version = 2
    precision = BF16_DOT
    instruction = pairs.PAIRS

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        if not super().accepts(workload, layouts, device):
            return False
        conv = _conv(workload)
        if not self.serves(workload, conv, device):
            return False
        shape, block = ConvShape.of(workload, conv), block_of(layouts[conv.inputs[0]])
        if not shape.flat:
            return False
        window = groups_of(shape, device.lanes)
        return window.in_blocks(block) and block % self.instruction.each == 0 if block else shape.groups == 1

    def serves(self, workload: Graph, conv: Layer, device: Device) -> bool:
        """Whether the device has the instruction, and the convolution may be rounded for it."""
        return pairs.serves(workload, conv, device)

    def in_place(self, shape: ConvShape, layout: str) -> bool:
        """Whether an image is read where it lies."""
        return reads_in_place(shape, layout)

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        shape = ConvShape.of(workload, _conv(workload))
        found = super().space(workload, layouts, device)
        layout = layouts[_conv(workload).inputs[0]]
        own = shape.listed and not self.in_place(shape, layout)
        knobs = {**found.knobs, "stream": [0], "order": [0, 1, *([_OWN] if own else [])]}
        block = block_of(layout) or self.instruction.each

        def fits(k: Knobs) -> bool:
            return dot.even(shape, k) and groups_of(shape, device.lanes * k["oc_t"]).in_blocks(block) and found.rule(k)

        first = {**found.default, "stream": 0}
        rows = max(
            r
            for r in knobs["rows"]
            if r <= max(first["rows"], knobs["rows"][0]) and dot.even(shape, {**first, "rows": r})
        )
        return Space(knobs, {**first, "rows": rows}, fits)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return DotBuilder(workload, layouts, knobs, device, self.precision).kernel(cores)


def _conv(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op == "Conv")


def reads_in_place(shape: ConvShape, layout: str) -> bool:
    """Whether an image in this layout is read where it lies: rounded already, each pixel by one tap."""
    return is_narrow(layout) and shape.in_place


class DotBuilder(ConvBuilder):
    """``conv2d``'s kernel with a rounded image, and an instruction for several products in its innermost loops."""

    instruction = pairs.PAIRS

    def kernel(self, cores: int) -> Kernel:
        in_place = self.in_place
        acc = self._products(self._lying if in_place else self._image())
        tensors, args = self.body.finish(self.output(acc))
        module = module_of(tensors)
        sch = schedule_of(module)
        self.schedule(sch, cores, padded=not in_place)
        return Kernel(module, sch, args, self.body.packs)

    # what is multiplied ------------------------------------------------------------------------------------------

    @property
    def in_place(self) -> bool:
        """Whether the image is read where it lies."""
        return reads_in_place(self.shape, self.body.input(self.conv.inputs[0]).layout)

    def element(self, index: Sequence[Any]) -> Any:
        """The rounded image at a logical index, as it is multiplied."""
        return self.body.input(self.conv.inputs[0]).bits(index)

    def border(self) -> Any:
        """What stands for zero in the rounded image."""
        return tirx.const(0, self.instruction.left)

    # expressions -----------------------------------------------------------------------------------------------

    @property
    def _block(self) -> int:
        """Channels of a block of the rounded image; a multiple of those that lie side by side."""
        return block_of(self.body.input(self.conv.inputs[0]).layout) or self.instruction.each

    @property
    def _packed(self) -> bool:
        """Whether the image is copied as numbers of 32 bits, from the planes of several channels: row by row."""
        return not block_of(self.body.input(self.conv.inputs[0]).layout) and not self.shape.listed

    def _lying(self, n: Any, c: Any, column: Any, i: Any, j: Any) -> Any:
        """The element that ``_image`` has there, where it lies."""
        p = self._pixel(column)
        return self.body.input(self.conv.inputs[0]).bits(
            (n, Chan(c, i * self.instruction.each + j, self._block), p // self.shape.ow, p % self.shape.ow)
        )

    def _image(self) -> te.Tensor:
        """The rounded image [n, channel block, column of the sums, group, each], or with rows, columns and a border."""
        s, block, each = self.shape, self._block, self.instruction.each
        blocks = -(-s.ic // block)
        if s.listed:

            def pixel(n: Any, c: Any, column: Any, i: Any, j: Any) -> Any:
                channel, p = Chan(c, i * each + j, block), self._pixel(column)
                return self.element((n, channel, p // s.ow * s.stride[0], p % s.ow * s.stride[1]))

            return te.compute((s.n, blocks, self._cols(), block // each, each), pixel, name="pad")
        top, left, _, _ = s.pads
        if self._packed:

            def packed(n: Any, c: Any, y: Any, x: Any) -> Any:
                inside = tirx.all(y >= top, y < s.h + top, x >= left, x < s.w + left)
                numbers = [self.element((n, Chan(c, k, block), y - top, x - left)) for k in range(each)]
                border = self.instruction.packed([self.border()] * each)
                return tirx.if_then_else(inside, self.instruction.packed(numbers), border)

            return te.compute((s.n, blocks, *s.reach), packed, name="pad")

        def bordered(n: Any, c: Any, y: Any, x: Any, i: Any, j: Any) -> Any:
            inside = tirx.all(y >= top, y < s.h + top, x >= left, x < s.w + left)
            value = self.element((n, Chan(c, i * each + j, block), y - top, x - left))
            return tirx.if_then_else(inside, value, self.border())

        return te.compute((s.n, blocks, *s.reach, block // each, each), bordered, name="pad")

    def _products(self, image: Callable[..., Any]) -> te.Tensor:
        s, ob, window, block, by = self.shape, self.ob, self.window, self._block, self.instruction
        shape, pack = pack_weights(s, ob, window, block)
        weights = by.weights(self.body, self.conv.inputs[1], shape, pack)
        extents = shape[1], s.kh, s.kw, shape[-2] // by.each, by.each
        axes = [te.reduce_axis((0, e), n) for e, n in zip(extents, _AXES, strict=True)]
        ico, kh, kw, icp, pair = axes

        def product(n: Any, o: Any, _: Any, x: Any, i: Any) -> Any:
            c, weight = window.first(o) // block + ico, by.widened(weights(o, ico, kh, kw, icp, i, pair))
            if s.listed:
                return by.widened(image(n, c, x, icp, pair)) * weight
            p = self._pixel(x)
            y = p // s.ow * s.stride[0] + kh * s.dilation[0]
            x = p % s.ow * s.stride[1] + kw * s.dilation[1]
            value = by.part(image(n, c, y, x), pair) if self._packed else by.widened(image(n, c, y, x, icp, pair))
            return value * weight

        dims = (s.n, -(-s.oc // ob), 1, self._cols(), ob)
        return te.compute(dims, lambda *p: te.sum(product(*p), axis=axes), name="acc")

    # schedule --------------------------------------------------------------------------------------------------

    even = True  # TVM places no instruction under one

    def shared(self, outer: Sequence[Any]) -> Sequence[Any]:
        return outer[:-1] if self.knobs["order"] == _OWN else outer

    def place_copy(self, sch: Any, task: Any, cores: int) -> None:
        copy = sch.get_sblock("pad")
        if self.knobs["order"] == _OWN:
            sch.compute_at(copy, task, preserve_unit_loops=True)
        else:
            parallelise(sch, sch.fuse(*sch.get_loops(copy)[:3]), cores, self.device.cores)
        if not self._packed:  # else LLVM does, with masks where the border is
            sch.vectorize(sch.fuse(*sch.get_loops(copy)[-2:]))

    def schedule_accumulation(self, sch: Any, acc: Any) -> None:
        *_, col, lane, ico, kh, kw, icp, pair = sch.get_loops(acc)
        taps = kw if self.shape.kw > 1 else None
        dot.accumulate(
            sch, acc, self.instruction, (ico, kh, kw, icp), col, lane, pair, unrolled=taps, packed=self._packed
        )


_AXES = ("ico", "kh", "kw", "icp", "pair")
