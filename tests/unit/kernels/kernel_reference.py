"""What each operator means, in plain numpy and float64: the reference that every kernel template is held against.

Written from the ONNX specification alone, without TVM and without ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import erf, prod
from typing import Any

import numpy as np

from tuner.graph.ir import Graph

Array = np.ndarray
Attrs = Mapping[str, Any]
NONE: Mapping[str, Callable[[Array], Array]] = {}


def windows(
    x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out: Sequence[int]
) -> Array:
    """[N, C, OH, OW, KH, KW] view of a padded image; the image must be large enough for every window."""
    n, c = x.shape[:2]
    steps = x.strides
    strides = (*steps[:2], steps[2] * stride[0], steps[3] * stride[1], steps[2] * dilation[0], steps[3] * dilation[1])
    return np.lib.stride_tricks.as_strided(x, (n, c, *out, *kernel), strides)


def out_size(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], ceil: bool) -> int:
    """Windows along one axis; with ceil_mode the last one must still start inside the image or its low padding."""
    span = size + sum(pads) - (kernel - 1) * dilation - 1
    count = (-(-span // stride) if ceil else span // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + pads[0] else count


def _geometry(size: Sequence[int], kernel: Sequence[int], attrs: Attrs) -> tuple[Any, Any, Any, tuple[int, int]]:
    stride, dilation = attrs.get("strides", (1, 1)), attrs.get("dilations", (1, 1))
    pads = attrs.get("pads", (0, 0, 0, 0))
    auto = attrs.get("auto_pad", "NOTSET")
    if auto in {"SAME_UPPER", "SAME_LOWER"}:
        out = tuple(-(-i // s) for i, s in zip(size, stride, strict=True))
        total = [max((o - 1) * s + (k - 1) * d + 1 - i, 0)
                 for i, o, s, k, d in zip(size, out, stride, kernel, dilation, strict=True)]  # fmt: skip
        low = [t // 2 if auto == "SAME_UPPER" else -(-t // 2) for t in total]
        return stride, dilation, (*low, *(t - p for t, p in zip(total, low, strict=True))), out
    ceil = bool(attrs.get("ceil_mode", 0))
    out = tuple(out_size(size[i], kernel[i], stride[i], dilation[i], (pads[i], pads[i + 2]), ceil) for i in range(2))
    return stride, dilation, pads, out


def _padded(x: Array, kernel: Sequence[int], attrs: Attrs, fill: float) -> tuple[Array, Any, Any, Any, Any]:
    stride, dilation, pads, out = _geometry(x.shape[2:], kernel, attrs)
    need = [(out[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 - x.shape[2 + i] - pads[i] for i in range(2)]
    high = [max(pads[2 + i], need[i]) for i in range(2)]
    padded = np.pad(x, [(0, 0), (0, 0), (pads[0], high[0]), (pads[1], high[1])], constant_values=fill)
    return padded, stride, dilation, pads, out


def conv(attrs: Attrs, x: Array, w: Array, b: Array | None = None) -> Array:
    groups = attrs.get("group", 1)
    padded, stride, dilation, _, out = _padded(x, w.shape[2:], attrs, 0.0)
    view = windows(padded, w.shape[2:], stride, dilation, out)
    parts = [
        np.einsum("nchwyx,ocyx->nohw", v, f, optimize=True)
        for v, f in zip(np.split(view, groups, 1), np.split(w, groups, 0), strict=True)
    ]
    y = np.concatenate(parts, 1)
    return y if b is None else y + b[:, None, None]


def max_pool(attrs: Attrs, x: Array) -> Array:
    kernel = attrs["kernel_shape"]
    padded, stride, dilation, _, out = _padded(x, kernel, attrs, -np.inf)
    return windows(padded, kernel, stride, dilation, out).max((4, 5))


def average_pool(attrs: Attrs, x: Array) -> Array:
    kernel = attrs["kernel_shape"]
    padded, stride, dilation, pads, out = _padded(x, kernel, attrs, 0.0)
    counted = np.zeros_like(padded[:1, :1])
    top, left, bottom, right = pads if attrs.get("count_include_pad", 0) else (0, 0, 0, 0)
    y0, x0 = pads[0] - top, pads[1] - left
    counted[:, :, y0 : pads[0] + x.shape[2] + bottom, x0 : pads[1] + x.shape[3] + right] = 1
    total = windows(padded, kernel, stride, dilation, out).sum((4, 5))
    return total / windows(counted, kernel, stride, dilation, out).sum((4, 5))


def lrn(attrs: Attrs, x: Array) -> Array:
    size = attrs["size"]
    square = np.zeros_like(x)
    for c in range(x.shape[1]):
        low, high = max(0, c - (size - 1) // 2), min(x.shape[1] - 1, c + size // 2)
        square[:, c] = (x[:, low : high + 1] ** 2).sum(1)
    base = attrs.get("bias", 1.0) + attrs.get("alpha", 1e-4) / size * square
    return x / base ** attrs.get("beta", 0.75)


def softmax(attrs: Attrs, x: Array, opset: int) -> Array:
    if opset < 13:
        axis = attrs.get("axis", 1) % x.ndim
        flat = x.reshape(prod(x.shape[:axis]), -1)
        return softmax({"axis": -1}, flat, 13).reshape(x.shape)
    axis = attrs.get("axis", -1)
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def gemm(attrs: Attrs, a: Array, b: Array, c: Array | None = None) -> Array:
    a, b = a.T if attrs.get("transA") else a, b.T if attrs.get("transB") else b
    y = attrs.get("alpha", 1.0) * (a @ b)
    return y if c is None else y + attrs.get("beta", 1.0) * c


def batch_norm(attrs: Attrs, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    scale, bias, mean, var = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (scale, bias, mean, var))
    return (x - mean) / np.sqrt(var + attrs.get("epsilon", 1e-5)) * scale + bias


def layer_norm(attrs: Attrs, x: Array, scale: Array, shift: Array | None = None) -> Array:
    axes = tuple(range(attrs.get("axis", -1) % x.ndim, x.ndim))
    distance = x - x.mean(axes, keepdims=True)
    y = distance / np.sqrt((distance**2).mean(axes, keepdims=True) + attrs.get("epsilon", 1e-5)) * scale
    return y if shift is None else y + shift


def clip(attrs: Attrs, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    low = attrs.get("min", -np.inf if low is None else low)
    return np.minimum(np.maximum(x, low), attrs.get("max", np.inf if high is None else high))


def gelu(attrs: Attrs, x: Array) -> Array:
    if attrs.get("approximate", "none") == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _ERF(x / np.sqrt(2)))


def _fold(combine: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def apply(_: Attrs, first: Array, *rest: Array) -> Array:
        for value in rest:
            first = combine(first, value)
        return first

    return apply


def _reduce_mean(attrs: Attrs, x: Array, axes: Array | None = None) -> Array:
    chosen = attrs["axes"] if axes is None else axes.astype(int)
    return x.mean(tuple(int(a) for a in chosen), keepdims=bool(attrs.get("keepdims", 1)))


def _reshape(_: Attrs, x: Array, shape: Array) -> Array:
    return x.reshape([int(d) for d in shape])


def _slice(_: Attrs, x: Array, starts: Array, ends: Array, axes: Array, steps: Array | None = None) -> Array:
    cuts: dict[int, slice] = {}
    for k, axis in enumerate(axes.astype(int)):
        cuts[int(axis) % x.ndim] = slice(int(starts[k]), int(ends[k]), None if steps is None else int(steps[k]))
    return x[tuple(cuts.get(axis, slice(None)) for axis in range(x.ndim))]


def _depth_to_space(attrs: Attrs, x: Array) -> Array:
    n, c, h, w = x.shape
    size = attrs["blocksize"]
    if attrs.get("mode", "DCR") == "DCR":
        dealt = x.reshape(n, size, size, c // size**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        dealt = x.reshape(n, c // size**2, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return dealt.reshape(n, c // size**2, h * size, w * size)


def _resize(attrs: Attrs, x: Array, roi: None, scales: None, sizes: Array) -> Array:
    """Axis by axis: a matrix of weights for each."""
    for axis in (2, 3):
        size, out = x.shape[axis], int(sizes[axis])
        at = np.arange(out)
        place = {
            "half_pixel": (at + 0.5) * size / out - 0.5, "asymmetric": at * size / out,
            "pytorch_half_pixel": (at + 0.5) * size / out - 0.5 if out > 1 else at * 0.0,
            "align_corners": at * (size - 1) / max(out - 1, 1),
        }[attrs["coordinate_transformation_mode"]]  # fmt: skip
        if attrs["mode"] == "nearest":
            place = np.floor(place) if attrs["nearest_mode"] == "floor" else np.ceil(place - 0.5)
        place = np.clip(place, 0, size - 1)
        weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size)))
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ weights.T, -1, axis)
    return x


_ERF = np.vectorize(erf, otypes=[np.float64])
_ALPHA, _GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
OPS: Mapping[str, Callable[..., Array]] = {
    "Conv": conv, "MaxPool": max_pool, "AveragePool": average_pool, "LRN": lrn, "Gemm": gemm,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdims=True),
    "GlobalMaxPool": lambda _, x: x.max((2, 3), keepdims=True),
    "ReduceMean": _reduce_mean,
    "MatMul": lambda _, a, b: a @ b,
    "Concat": lambda attrs, *parts: np.concatenate(parts, attrs["axis"]),
    "Reshape": _reshape,
    "Transpose": lambda attrs, x: x.transpose(attrs["perm"]),
    "Slice": _slice, "DepthToSpace": _depth_to_space, "Resize": _resize,
    "Gather": lambda attrs, x, places: np.take(x, places.astype(int), attrs.get("axis", 0)),
    "LayerNormalization": layer_norm,
    "BatchNormalization": batch_norm, "Clip": clip, "Gelu": gelu,
    "Add": lambda _, a, b: a + b, "Sub": lambda _, a, b: a - b, "Mul": lambda _, a, b: a * b,
    "Div": lambda _, a, b: a / b,
    "Sum": _fold(np.add), "Max": _fold(np.maximum), "Min": _fold(np.minimum),
    "Relu": lambda _, x: np.maximum(x, 0),
    "Sigmoid": lambda _, x: 1 / (1 + np.exp(-x)),
    "Tanh": lambda _, x: np.tanh(x), "Erf": lambda _, x: _ERF(x), "Exp": lambda _, x: np.exp(x),
    "HardSigmoid": lambda attrs, x: np.clip(attrs.get("alpha", 0.2) * x + attrs.get("beta", 0.5), 0, 1),
    "HardSwish": lambda _, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "LeakyRelu": lambda attrs, x: np.where(x < 0, attrs.get("alpha", 0.01) * x, x),
    "PRelu": lambda _, x, slope: np.where(x < 0, slope * x, x),
    "Elu": lambda attrs, x: np.where(x < 0, attrs.get("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x),
    "Celu": lambda attrs, x: np.maximum(x, 0) + attrs["alpha"] * np.expm1(np.minimum(x, 0) / attrs["alpha"]),
    "Selu": lambda attrs, x: attrs.get("gamma", _GAMMA) * np.where(
        x < 0, attrs.get("alpha", _ALPHA) * np.expm1(np.minimum(x, 0)), x),
    "Softplus": lambda _, x: np.logaddexp(x, 0), "Softsign": lambda _, x: x / (1 + np.abs(x)),
    "Mish": lambda _, x: x * np.tanh(np.logaddexp(x, 0)),
    "Abs": lambda _, x: np.abs(x), "Neg": lambda _, x: -x, "Sqrt": lambda _, x: np.sqrt(x),
    "Reciprocal": lambda _, x: 1 / x, "Floor": lambda _, x: np.floor(x), "Ceil": lambda _, x: np.ceil(x),
    "Identity": lambda _, x: x, "Dropout": lambda _, x, *rest: x,
}  # fmt: skip


def evaluate(op: str, attrs: Attrs, inputs: Sequence[Array | None], opset: int) -> Array:
    """One layer's first output; an absent optional input is None."""
    values = [None if v is None else np.asarray(v, np.float64) for v in inputs]
    return softmax(attrs, values[0], opset) if op == "Softmax" else OPS[op](attrs, *values)  # type: ignore[arg-type]


def run(workload: Graph, values: Mapping[str, Array], rounding: Mapping[str, Callable[[Array], Array]] = NONE) -> Array:
    """The workload's one output in float64; ``values`` holds its inputs and constants by name.

    ``rounding``: layers -> what is done to their first operand.
    """
    known: dict[str, Array] = dict(values)
    for layer in workload.layers:
        inputs = [known[n] if n else None for n in layer.inputs]
        if layer.id in rounding and inputs[0] is not None:
            inputs[0] = rounding[layer.id](inputs[0])
        known[layer.outputs[0]] = evaluate(layer.op, dict(layer.attrs), inputs, workload.opset)
    return known[workload.outputs[0]]
