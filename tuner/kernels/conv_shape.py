"""The numbers of a 2-D convolution, and padding resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tuner.graph.ir import Graph, Layer

LARGEST_COPY = 8 << 20  # bytes of an image that is copied to put zeros around it before any task starts


@dataclass(frozen=True)
class ConvShape:
    """The numbers of one 2-D convolution; pads are (top, left, bottom, right)."""

    n: int
    ic: int
    h: int
    w: int
    oc: int
    oh: int
    ow: int
    kh: int
    kw: int
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int
    rows_kept: bool = False  # see ``flat``

    @staticmethod
    def of(workload: Graph, conv: Layer) -> ConvShape:
        n, ic, h, w = workload.tensors[conv.inputs[0]].shape
        oc, _, kh, kw = workload.type_of(conv.inputs[1]).shape
        _, _, oh, ow = workload.tensors[conv.outputs[0]].shape
        stride = tuple(conv.attr("strides", (1, 1)))
        dilation = tuple(conv.attr("dilations", (1, 1)))
        pads = window_pads(conv, (h, w), (kh, kw), stride, dilation, (oh, ow))
        return ConvShape(n, ic, h, w, oc, oh, ow, kh, kw, stride, dilation, pads, conv.attr("group", 1))

    @cached_property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of the (padded) image that the output reads."""
        return (
            (self.oh - 1) * self.stride[0] + (self.kh - 1) * self.dilation[0] + 1,
            (self.ow - 1) * self.stride[1] + (self.kw - 1) * self.dilation[1] + 1,
        )

    @cached_property
    def gathered(self) -> bool:
        """A 1x1 convolution that leaves pixels out and has no border."""
        return self.listed and self.stride != (1, 1)

    @cached_property
    def listed(self) -> bool:
        """Whether each pixel of the image serves one tap alone."""
        return (self.kh, self.kw) == (1, 1) and not any(self.pads)

    @cached_property
    def in_place(self) -> bool:
        """Whether, besides, all pixels count, in their order."""
        return self.listed and self.stride == (1, 1)

    @cached_property
    def flat(self) -> bool:
        """Whether the pixels of an image are seen as one long row, and copied once for all tasks if at all.

        That wastes no part of a register tile at the end of a row. Not with images so large that the copy would go
        through memory.
        """
        return not self.rows_kept and self._border <= LARGEST_COPY

    @cached_property
    def copied(self) -> int:
        """Bytes copied before all tasks where the image is seen as one long row."""
        if not self.flat:
            return 0
        return self.n * self.ic * self.oh * self.ow * 4 if self.gathered else self._border

    @cached_property
    def _border(self) -> int:
        """Bytes of the image with zeros around it; 0 where it needs none."""
        return self.n * self.ic * self.reach[0] * self.reach[1] * 4 if any(self.pads) else 0


def window_pads(
    layer: Layer, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
    out: Sequence[int],
) -> tuple[int, int, int, int]:  # fmt: skip
    """Padding (top, left, bottom, right) of a windowed layer, ``auto_pad`` resolved from its output size."""
    auto = layer.attr("auto_pad", "NOTSET")
    if auto in {"SAME_UPPER", "SAME_LOWER"}:
        total = [
            max((o - 1) * s + (k - 1) * d + 1 - i, 0)
            for i, k, s, d, o in zip(size, kernel, stride, dilation, out, strict=True)
        ]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        first, last = (small, large) if auto == "SAME_UPPER" else (large, small)
        return (first[0], first[1], last[0], last[1])
    if auto == "VALID":
        return (0, 0, 0, 0)
    return tuple(layer.attr("pads", (0, 0, 0, 0)))
