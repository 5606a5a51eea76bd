"""How a convolution's inner loops read its input: where it lies, or from a copy with zeros around the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tvm import te, tirx

from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.views import Chan, flat
from tuner.plan.layout import block_of


class Source(Protocol):
    """What an image is read from: a View, or one through other layers."""

    @property
    def layout(self) -> str: ...

    def at(self, index: Sequence[Any]) -> Any: ...


class Image:
    """The input ``[n, channel, y, x]`` of a convolution of shape ``s`` that computes ``cols`` columns of each row.

    ``copy`` is the stage (named "pad") that writes the copy; None where none is needed. It holds the rows and columns
    that the output reads, zeros where they lie outside the image; of a 1x1 convolution with a stride, seen as one long
    row, only the pixels that count, so that they lie side by side.
    """

    def __init__(self, s: ConvShape, data: Source, cols: int) -> None:
        self._s, self._data, self._block = s, data, block_of(data.layout)
        self._gathered = s.flat and s.gathered
        width = (cols - 1) * s.stride[1] + (s.kw - 1) * s.dilation[1] + 1
        size = (s.oh, s.ow) if self._gathered else (s.reach[0], width)
        inside = not any(s.pads) and width <= s.w and s.reach[0] <= s.h
        self.copy = None if inside and not self._gathered else self._copied(*size)

    def _copied(self, height: int, width: int) -> te.Tensor:
        s, block = self._s, self._block
        if not block:
            named = lambda n, c, y, x: self._pixel(n, c, y, x)  # noqa: E731, PLW0108 (its arguments name the loops)
            return te.compute((s.n, s.ic, height, width), named, name="pad")
        dims = (s.n, -(-s.ic // block), height, width, block)
        return te.compute(dims, lambda n, co, y, x, ci: self._pixel(n, Chan(co, ci, block), y, x), name="pad")

    def _pixel(self, n: Any, c: Any, y: Any, x: Any) -> Any:
        """One element of the copy."""
        s = self._s
        if self._gathered:
            return self._data.at((n, c, y * s.stride[0], x * s.stride[1]))
        top, left, _, _ = s.pads
        inside = tirx.all(y >= top, y < s.h + top, x >= left, x < s.w + left)
        return tirx.if_then_else(inside, self._data.at((n, c, y - top, x - left)), tirx.const(0, "float32"))

    def at(self, n: Any, c: Any, pixel: tuple[Any, Any], tap: tuple[Any, Any]) -> Any:
        """What output ``pixel`` (y, x) multiplies with the weight at ``tap`` (row, column) of channel ``c``."""
        s = self._s
        y, x = pixel
        if not self._gathered:
            y, x = y * s.stride[0], x * s.stride[1]
        if s.kh > 1:
            y = y + tap[0] * s.dilation[0]
        if s.kw > 1:
            x = x + tap[1] * s.dilation[1]
        if self.copy is None:
            return self._data.at((n, c, y, x))
        if not self._block:
            return self.copy(n, flat(c), y, x)
        if isinstance(c, Chan):
            return self.copy(n, c.outer, y, x, c.inner)
        return self.copy(n, c // self._block, y, x, c % self._block)
