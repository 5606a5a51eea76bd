"""bfloat16 without a library: the upper half of a float32, rounded to nearest, ties to even. Numpy only.

A bfloat16 has 8 significant bits, so rounding moves a normal number by at most 2**-9 of the next power of two: at most
2**-8 of itself. What a sum of products w x loses by rounded weights is therefore at most 2**-8 times the sum of |w x|.
"""

from __future__ import annotations

import numpy as np

from tuner.graph.ir import Constant, Graph, Layer

OPSET = 13  # of ONNX, from which an operand can be rounded in a model
STEP = 2.0**-8  # largest relative change of a normal number by rounding
_SLICE = 1 << 22  # numbers rounded at a time: temporary arrays stay small
_RANKS = {"Conv": 4, "Gemm": 2, "MatMul": 2}  # of the weights of operators that have kernels in bf16


def stored(array: np.ndarray) -> np.ndarray:
    """The 16 bits of each float32's nearest bfloat16, as uint16. NaNs stay NaNs; too large numbers become infinite."""
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    out = np.empty(flat.shape, np.uint16)
    for at in range(0, flat.size, _SLICE):
        bits = flat[at : at + _SLICE].view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
        nan = (bits & np.uint32(0x7FFFFFFF)) > 0x7F800000
        out[at : at + _SLICE] = np.where(nan, (bits >> 16) | np.uint32(0x40), rounded)
    return out.reshape(array.shape)


def widened(bits: np.ndarray) -> np.ndarray:
    """Inverse of ``stored``: float32 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(array: np.ndarray) -> np.ndarray:
    """The float32 array with every number replaced by its nearest bfloat16."""
    return widened(stored(array))


def weights_of(graph: Graph, layer: Layer) -> Constant | None:
    """The weights of a layer that may be stored as bfloat16: a dense layer's or a convolution's, unless depthwise."""
    constant = graph.constants.get(layer.inputs[1]) if layer.op in _RANKS else None
    if constant is None or constant.value is not None or constant.dtype != "float32":
        return None
    if len(constant.shape) != _RANKS[layer.op]:
        return None
    depthwise = layer.op == "Conv" and layer.attr("group", 1) > 1 and constant.shape[1] == 1
    return None if depthwise else constant


def dotted_layers(graph: Graph) -> list[Layer]:
    """Convolutions that kernels in bf16-dot serve: they round their images, too. None in an old opset."""
    if graph.opset < OPSET:
        return []
    return [x for x in graph.layers if x.op == "Conv" and weights_of(graph, x) is not None]


def weight_names(graph: Graph) -> list[str]:
    """Constants that are such weights: a kernel in bf16 computes with their rounded values."""
    return list(dict.fromkeys(c.name for x in graph.layers if (c := weights_of(graph, x)) is not None))
