"""8-bit integers for convolutions without a library: weights by output channel, images by tensor. Numpy only.

Weights w are int8 multiples c of a scale s per output channel, symmetric: w ~ s c with |c| <= 127. An image x, whose
numbers lie between low and high, is v = clamp(rint(x / step), first, last) steps, with last - first = 255, so that
v - first is a uint8 and 0 is exactly v = 0 (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018). A convolution is then a sum of integer products c v, exact in 32 bits,
times step s.
"""

from __future__ import annotations

from math import prod

import numpy as np

from tuner.graph.ir import Graph, Layer
from tuner.plan.bf16 import OPSET, weights_of

CODES = 255  # steps from the lowest number of an image to the highest
_MOST = 127  # of weights
_LEAST = np.float32(2.0**-100)  # of scales: their inverses are finite
_TOGETHER = 2  # moves of all rows at once before each row is looked at
_SUM = 2**31 // (CODES * _MOST)  # products that a sum of 32 bits surely holds


def scales(weights: np.ndarray) -> np.ndarray:
    """``[OC]`` float32: what the integers of each output channel of ``[OC, ...]`` are multiples of."""
    most = np.abs(np.asarray(weights, np.float32)).reshape(len(weights), -1).max(axis=1)
    return np.asarray(np.maximum(most / np.float32(_MOST), _LEAST), np.float32)


def codes(weights: np.ndarray) -> np.ndarray:
    """The weights as int8: the nearest but for a few, so that rounding moves their sums by half a step at most.

    Images that have passed a Relu are positive, and what rounding adds to a sum of weights is multiplied with their
    mean. So of each kernel (an input channel's weights), and then of each output channel, those that lie nearest to a
    tie are rounded to their other side until the sum of what was added is small (Guo et al., "SQuant: On-the-Fly
    Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022).
    """
    multiples = np.nan_to_num(np.asarray(weights, np.float32) / _along(scales(weights), weights))
    near = np.rint(multiples)
    off = multiples - near  # what rounding took away
    for size in (prod(weights.shape[2:]), prod(weights.shape[1:])):
        if size > 1:
            _balance(near.reshape(-1, size), off.reshape(-1, size))
    return np.asarray(np.clip(near, -_MOST, _MOST), np.int8)


def _balance(near: np.ndarray, off: np.ndarray) -> None:
    """Move numbers of each row by one step, in place, those that are furthest ``off``, until their sum is small."""
    for _ in range(_TOGETHER):  # most rows need few moves, the same number at a time
        steps = np.rint(off.sum(axis=1))
        rows = np.flatnonzero(steps)
        sign = np.sign(steps[rows])
        places = np.argmax(off[rows] * sign[:, None], axis=1)
        near[rows, places] += sign
        off[rows, places] -= sign
    steps = np.rint(off.sum(axis=1))
    for row in np.flatnonzero(steps):
        count, sign = int(abs(steps[row])), np.sign(steps[row])
        few = np.argpartition(-sign * off[row], count - 1)[:count]
        near[row, few] += sign
        off[row, few] -= sign


def sums(weights: np.ndarray) -> np.ndarray:
    """``[OC]`` int32: of the integers of each output channel."""
    return np.asarray(codes(weights).reshape(len(weights), -1).sum(axis=1), np.int32)


def quantised(weights: np.ndarray) -> np.ndarray:
    """The float32 weights that their integers stand for."""
    return np.asarray(codes(weights) * _along(scales(weights), weights), np.float32)


def grid(limits: np.ndarray) -> np.ndarray:
    """``(1 / step, step, first, last)`` in float32, of an image whose numbers lie between ``limits`` (low, high).

    What is not finite gives a grid of no use, and no error: its cost shows where it is measured.
    """
    low, high = (float(v) for v in limits)
    low, high = min(low, 0.0), max(high, 0.0)
    width = high - low
    step = np.float32(width / CODES) if np.isfinite(width) else np.float32(1)
    step = max(step, _LEAST)
    first = -min(CODES, round(-low / float(step))) if np.isfinite(width) else 0
    return np.asarray([np.float32(1) / step, step, first, first + CODES], np.float32)


def stepped(image: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """An image in whole steps v of its ``grid``, as float32; computed as kernels do, operation by operation."""
    inverse, _, first, last = np.asarray(numbers, np.float32)
    return np.asarray(np.clip(np.rint(np.asarray(image, np.float32) * inverse), first, last), np.float32)


def on_grid(image: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The float32 numbers that an image on its ``grid`` stands for."""
    return stepped(image, numbers) * np.float32(numbers[1])


def quantised_layers(graph: Graph) -> list[Layer]:
    """Convolutions that kernels in int8 serve: of images that are no constants, in one group. None in an old opset."""
    if graph.opset < OPSET:
        return []
    return [layer for layer in graph.layers if _is_quantised(graph, layer)]


def _is_quantised(graph: Graph, layer: Layer) -> bool:
    weights = weights_of(graph, layer) if layer.op == "Conv" else None
    if weights is None or layer.attr("group", 1) != 1 or layer.inputs[0] not in graph.tensors:
        return False
    _, ic, kh, kw = weights.shape
    return ic * kh * kw <= _SUM


def _along(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return numbers.reshape(-1, *[1] * (weights.ndim - 1))
