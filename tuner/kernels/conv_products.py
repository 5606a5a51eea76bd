"""The sums of products of a convolution in register tiles: which channels a chunk of output channels goes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.conv_weights import Groups
from tuner.kernels.views import Chan

Source = Callable[[Sequence[Any], Any, tuple[Any, Any]], Any]  # (index, channel, tap) -> what the tap's weight meets


def sum_products(
    s: ConvShape, window: Groups, block: int, dims: Sequence[int], source: Source, weights: Callable[..., Any],
    *, chunk: int, side: str = "",
) -> te.Tensor:  # fmt: skip
    """The stage "acc" of a convolution whose weights are packed by ``pack_weights``.

    Args:
        block: channels per block of what is read; 0 where it is not blocked.
        dims: of the stage; axis ``chunk`` counts chunks of output channels, the last one the channels of a chunk.
        side: told from other convolutions of the kernel by this suffix.

    Reductions are, in this order: blocks of channels, taps, channels of a block; or channels, taps; or, where chunks
    touch several groups, groups, channels, taps (see ``reductions``).
    """
    suffix = f"_{side}" if side else ""

    def axis(extent: int, name: str) -> Any:
        return te.reduce_axis((0, extent), name + suffix)

    kh, kw = axis(s.kh, "kh"), axis(s.kw, "kw")
    name = f"acc{suffix}"
    if window.in_blocks(block):
        ico, ici = axis(-(-window.group_ic // block), "ico"), axis(block, "ici")

        def blocked(*p: Any) -> Any:
            channel = Chan(window.first(p[chunk]) // block + ico, ici, block)
            return source(p, channel, (kh, kw)) * weights(p[chunk], ico, kh, kw, ici, p[-1])

        return te.compute(dims, lambda *p: te.sum(blocked(*p), axis=[ico, kh, kw, ici]), name=name)
    ic = axis(window.group_ic, "ic")
    if window.groups == 1:

        def single(*p: Any) -> Any:
            return source(p, window.first(p[chunk]) + ic, (kh, kw)) * weights(p[chunk], ic, kh, kw, p[-1])

        return te.compute(dims, lambda *p: te.sum(single(*p), axis=[ic, kh, kw]), name=name)
    g = axis(window.groups, "g")

    def grouped(*p: Any) -> Any:
        channel = te.min(window.first(p[chunk]) + g * window.group_ic + ic, s.ic - 1)
        value = source(p, channel, (kh, kw)) * weights(p[chunk], g, ic, kh, kw, p[-1])
        return tirx.if_then_else(g < window.touched(p[chunk]), value, tirx.const(0, "float32"))

    return te.compute(dims, lambda *p: te.sum(grouped(*p), axis=[g, ic, kh, kw]), name=name)


def reductions(window: Groups, block: int) -> tuple[int, int]:
    """How many reductions such a stage has, and the position of the one over the columns of the window."""
    if window.in_blocks(block):
        return 4, 2
    return (4, 3) if window.groups > 1 else (3, 2)
