"""A convolution as TVM writes it, read off its sum of products: which axis is what, in either layout of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import ir, tirx

_DIMENSIONS = 4  # of images and weights


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution in one group, or a depthwise one with as many channels as it reads.

    ``axis``: where channels stand in images, 1 (NCHW) or 3 (NHWC). Pairs are (height, width).
    """

    axis: int
    batch: int
    out_channels: int
    in_channels: int  # that one output channel reads
    size: tuple[int, int]  # of the result
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    depthwise: bool
    order: tuple[int, ...]  # of its loops: numbers of batch, channel, row, column, then in_channels, kernel's two
    data: Any  # tirx.Buffer that it reads its image from
    weight: Any

    @property
    def pointwise(self) -> bool:
        """Whether each pixel of the result comes from one pixel."""
        return self.kernel == (1, 1)

    def extent(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the image that so many of the result read."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]
        return (rows - 1) * self.strides[0] + reach[0], (columns - 1) * self.strides[1] + reach[1]


def convolution_of(block: Any) -> Convolution | None:
    """What an SBlock computes, if that is such a convolution."""
    store = block.body
    if not isinstance(store, tirx.BufferStore) or not isinstance(store.value, tirx.Add):
        return None
    product = store.value.b
    if not isinstance(product, tirx.Mul):
        return None
    data, weight = _load(product.a), _load(product.b)
    if data is None or weight is None:
        return None
    axes = [v.var for v in block.iter_vars]
    reduced = [v.var for v in block.iter_vars if int(v.iter_type) == tirx.IterVar.CommReduce]
    if any(len(load.indices) != _DIMENSIONS for load in (data, weight, store)) or len(reduced) != 3:
        return None
    of_data = [_linear(index, axes) for index in data.indices]
    of_weight = [_linear(index, axes) for index in weight.indices]
    of_out = [_linear(index, axes) for index in store.indices]
    if None in of_data or None in of_weight or None in of_out:
        return None
    return _matched(block, axes, reduced, of_data, of_weight, of_out, data.source, weight.source)


def _matched(
    block: Any, axes: list[Any], reduced: list[Any], of_data: Any, of_weight: Any, of_out: Any, data: Any, weight: Any
) -> Convolution | None:  # fmt: skip
    number = {axis: k for k, axis in enumerate(axes)}
    extents = [int(v.dom.extent) for v in block.iter_vars]
    summed = {number[axis] for axis in reduced}
    if any(len(index) != 1 or list(index.values()) != [1] for index in (*of_out, *of_weight)):
        return None
    outs, weights = [next(iter(index)) for index in of_out], [next(iter(index)) for index in of_weight]
    filters = [k for k in outs if k in weights]
    if len(set(outs)) != _DIMENSIONS or len(filters) != 1 or {*weights} != summed | {*filters}:
        return None
    (channel,) = filters
    axis = outs.index(channel)
    if axis not in (1, 3):
        return None
    rows, columns = (2, 3) if axis == 1 else (1, 2)
    inner = next((k for k in summed if k in of_data[axis]), None)
    if inner is None or of_data[0] != {outs[0]: 1}:
        return None
    depthwise = channel in of_data[axis]
    if of_data[axis] != ({channel: 1, inner: 1} if depthwise else {inner: 1}) or (depthwise and extents[inner] > 1):
        return None
    places, steps, taps = [], [], []
    for dimension in (rows, columns):
        index = of_data[dimension]
        taken = [k for k in summed - {inner} if k in index]
        if len(taken) != 1 or set(index) != {outs[dimension], taken[0]}:
            return None
        places.append(taken[0])
        steps.append(index[outs[dimension]])
        taps.append(index[taken[0]])
    return Convolution(
        axis, extents[outs[0]], extents[channel], extents[inner], (extents[outs[rows]], extents[outs[columns]]),
        (extents[places[0]], extents[places[1]]), (steps[0], steps[1]), (taps[0], taps[1]), depthwise,
        (outs[0], channel, outs[rows], outs[columns], inner, *places), data, weight,
    )  # fmt: skip


def _load(value: Any) -> Any:
    while isinstance(value, tirx.Cast):
        value = value.value
    return value if isinstance(value, ir.TensorLoad) else None


def _linear(index: Any, axes: list[Any]) -> dict[int, int] | None:
    """Number of axis -> how far the index moves with it; None for what is no plain sum of axes."""
    terms = tvm.sym.detect_linear_equation(index, axes)
    if len(terms) != len(axes) + 1 or not all(isinstance(term, tirx.IntImm) for term in terms) or int(terms[-1]):
        return None
    return {k: int(term) for k, term in enumerate(terms[:-1]) if int(term)}
