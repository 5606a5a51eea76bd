"""Direct convolution whose products are of 8-bit integers, four at a time (AVX512-VNNI), and whose sums are exact.

As ``conv2d_dot``, with four input channels side by side. The image is float32 in memory, and becomes uint8 while it is
copied: before all tasks, or (``order`` 2, of 1x1 convolutions) by each task for its own pixels. Weights become int8
when the model is built. What an integer stands for (``tuner.plan.int8``) comes with the weights and from the range of
the image, which are arguments of the kernel: it is the same for all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels import quads
from tuner.kernels.base import Kernel, Knobs, Layouts, Space
from tuner.kernels.conv2d_dot import Conv2dDot, DotBuilder
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.stepping import to_uint8
from tuner.kernels.views import Chan, flat
from tuner.plan.layout import Pack, derived
from tuner.precision import INT8
from tuner.types import Device

_OPERANDS = 8  # registers for what is multiplied: unlike those of bfloat16, images are no operands from memory


class Conv2dInt8(Conv2dDot):
    name = "conv2d_int8"
    version = 1
    precision = INT8
    instruction = quads.QUADS

    def serves(self, workload: Graph, conv: Layer, device: Device) -> bool:
        return quads.serves(workload, conv, device)

    def in_place(self, shape: ConvShape, layout: str) -> bool:
        return False

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return super().space(workload, layouts, replace(device, registers=device.registers - _OPERANDS))

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return _Builder(workload, layouts, knobs, device, self.precision).kernel(cores)


class _Builder(DotBuilder):
    """``conv2d_dot``'s kernel with integers for bfloat16, and their sums scaled."""

    in_place = False
    instruction = quads.QUADS

    @property
    def _grid(self) -> te.Tensor:
        """What ``tuner.plan.int8.grid`` gives for the image."""
        return self.body.constant(derived(self.conv.inputs[0], "grid"), (4,), Pack((("int8-grid",),)), "float32")

    def _by_channel(self, what: str, dtype: str, c: Chan) -> Any:
        """A number of output channel ``c`` that is made of its weights; zero beyond the last one."""
        filled = -(-self.shape.oc // c.block) * c.block
        pack = Pack(((f"int8-{what}",), ("pad", [[0, filled - self.shape.oc]])))
        return self.body.constant(derived(self.conv.inputs[1], what), (filled,), pack, dtype)(flat(c))

    def element(self, index: Sequence[Any]) -> Any:
        grid, number = self._grid, self.body.input(self.conv.inputs[0]).at(index)
        return to_uint8(number, grid(0), grid(2), grid(3))

    def border(self) -> Any:
        return (tirx.const(0, "float32") - self._grid(2)).astype("uint8")

    def product_sum(self, value: Any, c: Chan) -> Any:
        steps = value + self._grid(2).astype("int32") * self._by_channel("sums", "int32", c)
        return steps.astype("float32") * (self._grid(1) * self._by_channel("scales", "float32", c))
