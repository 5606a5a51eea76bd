"""8-bit integers for convolutions without a library: weights by output channel, images by tensor. Numpy only.

Weights w are int8 multiples c of a scale s per output channel, symmetric: w ~ s c with |c| <= 127. An image x, whose
numbers lie between low and high, is v = clamp(rint(x / step), first, last) steps, with last - first = 255, so that
v - first is a uint8 and 0 is exactly v = 0 (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018). A convolution is then a sum of integer products c v, exact in 32 bits,
times step s.
"""

from __future__ import annotations

import numpy as np

from tuner.graph.ir import Graph, Layer
from tuner.plan.bf16 import OPSET, weights_of

CODES = 255  # steps from the lowest number of an image to the highest
_MOST = 127  # of weights
_LEAST = np.float32(2.0**-100)  # of scales: their inverses are finite
_SUM = 2**31 // (CODES * _MOST)  # products that a sum of 32 bits surely holds


def scales(weights: np.ndarray) -> np.ndarray:
    """``[OC]`` float32: what the integers of each output channel of ``[OC, ...]`` are multiples of."""
    most = np.abs(np.asarray(weights, np.float32)).reshape(len(weights), -1).max(axis=1)
    return np.asarray(np.maximum(most / np.float32(_MOST), _LEAST), np.float32)


def codes(weights: np.ndarray) -> np.ndarray:
    """The weights as int8, nearest, ties to even."""
    multiples = np.rint(np.asarray(weights, np.float32) / _along(scales(weights), weights))
    return np.asarray(np.clip(np.nan_to_num(multiples), -_MOST, _MOST), np.int8)


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
