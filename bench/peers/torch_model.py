"""A Graph as a PyTorch function, so that PyTorch can be timed on the very models that the others read as ONNX.

PyTorch reads no ONNX files. Each layer becomes a call of an ``fx.GraphModule``, which runs as plain Python code
("eager") or is given to ``torch.compile``. It gets the graph as our cleaning passes leave it: with batch normalisation
folded, which PyTorch would not do by itself. Needs the extra ``torch``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.nn import functional

from tuner.errors import CandidateError
from tuner.graph.ir import Graph, Layer

Made = tuple[Callable[..., Any], tuple[Any, ...]]  # a function and its arguments, fx nodes among them


def to_torch(graph: Graph, weights: Mapping[str, np.ndarray]) -> Any:
    """A torch.nn.Module that takes the graph's inputs in order and gives a tuple of its outputs.

    Raises:
        CandidateError(code="no-torch-operator"): a layer that none of the bench's models has.
    """
    made, root = fx.Graph(), torch.nn.Module()
    values: dict[str, Any] = {name: made.placeholder(f"input_{i}") for i, name in enumerate(graph.inputs)}
    for number, (name, constant) in enumerate(graph.constants.items()):
        array = weights[name] if name in weights else np.reshape(constant.value, constant.shape)  # type: ignore[arg-type]
        root.register_buffer(f"constant_{number}", torch.from_numpy(np.array(array, dtype=constant.dtype)))
        values[name] = made.get_attr(f"constant_{number}")
    for layer in graph.layers:
        function, args = _made(graph, layer, [values[n] if n else None for n in layer.inputs])
        values[layer.outputs[0]] = made.call_function(function, args)
    made.output(tuple(values[n] for n in graph.outputs))
    return fx.GraphModule(root, made).eval()


def _made(graph: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    if layer.op in _PLAIN and len(args) <= 2:
        return _PLAIN[layer.op], tuple(args)
    if layer.op not in _WITH_ATTRIBUTES:
        raise CandidateError(f"{layer.op} has no PyTorch operator here.", code="no-torch-operator")
    return _WITH_ATTRIBUTES[layer.op](graph, layer, args)


def conv(x: Any, w: Any, b: Any, strides: Any, pads: Any, dilations: Any, group: int) -> Any:
    """Of an image. ``pads`` are left, right, top, bottom, here and below."""
    if pads[::2] == pads[1::2]:
        return functional.conv2d(x, w, b, strides, pads[::-2], dilations, group)
    return functional.conv2d(functional.pad(x, pads), w, b, strides, 0, dilations, group)


def max_pool(x: Any, kernel: Any, strides: Any, pads: Any) -> Any:
    if pads[::2] == pads[1::2]:
        return functional.max_pool2d(x, kernel, strides, pads[::-2])
    return functional.max_pool2d(functional.pad(x, pads, value=float("-inf")), kernel, strides)


def average_pool(x: Any, kernel: Any, strides: Any, pads: Any, count_padding: bool) -> Any:
    if pads[::2] == pads[1::2]:
        return functional.avg_pool2d(x, kernel, strides, pads[::-2], count_include_pad=count_padding)
    mean = functional.avg_pool2d(functional.pad(x, pads), kernel, strides)
    if count_padding:
        return mean
    return mean / functional.avg_pool2d(functional.pad(torch.ones_like(x), pads), kernel, strides)


def global_average(x: Any) -> Any:
    return x.mean((2, 3), keepdim=True)


def gemm(a: Any, b: Any, c: Any, alpha: float, beta: float, a_turned: bool, b_turned: bool) -> Any:
    a = a.t() if a_turned else a
    if b_turned and alpha == 1.0 and beta == 1.0:
        return functional.linear(a, b, c)
    product = alpha * torch.matmul(a, b.t() if b_turned else b)
    return product if c is None else product + beta * c


def layer_norm(x: Any, scale: Any, shift: Any, shape: Any, epsilon: float) -> Any:
    return functional.layer_norm(x, shape, scale, shift, epsilon)


def _windowed(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and pads. Raises CandidateError for what the bench's models do not have."""
    if layer.attr("ceil_mode", 0) or layer.attr("auto_pad", "NOTSET") != "NOTSET":
        raise CandidateError(f"{layer.id}: such a window has no PyTorch operator here.", code="no-torch-operator")
    top, left, bottom, right = layer.attr("pads", (0, 0, 0, 0))
    return layer.attr("strides", (1, 1)), (left, right, top, bottom)


def _conv(_: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    strides, pads = _windowed(layer)
    given = (*args, None)[:3]
    return conv, (*given, strides, pads, layer.attr("dilations", (1, 1)), layer.attr("group", 1))


def _max_pool(_: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    return max_pool, (args[0], layer.attr("kernel_shape"), *_windowed(layer))


def _average_pool(_: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    counting = bool(layer.attr("count_include_pad", 0))
    return average_pool, (args[0], layer.attr("kernel_shape"), *_windowed(layer), counting)


def _gemm(_: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    turned = bool(layer.attr("transA", 0)), bool(layer.attr("transB", 0))
    return gemm, (*(*args, None)[:3], layer.attr("alpha", 1.0), layer.attr("beta", 1.0), *turned)


def _lrn(_: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    factors = layer.attr("alpha", 1e-4), layer.attr("beta", 0.75), layer.attr("bias", 1.0)
    return functional.local_response_norm, (args[0], layer.attr("size"), *factors)


def _layer_norm(graph: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    shape = graph.type_of(layer.inputs[0]).shape[layer.attr("axis", -1) :]
    return layer_norm, (*(*args, None)[:3], shape, layer.attr("epsilon", 1e-5))


def _gather(graph: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    known, axis = graph.constants.get(layer.inputs[1]), layer.attr("axis", 0)
    if known is not None and known.shape == () and known.value is not None:
        return torch.select, (args[0], axis, int(known.value[0]))
    if axis == 0 and len(graph.type_of(layer.inputs[0]).shape) == 2:
        return functional.embedding, (args[1], args[0])
    raise CandidateError(f"{layer.id}: such a Gather has no PyTorch operator here.", code="no-torch-operator")


def _clip(graph: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    limits = [graph.constants[n].value if n else None for n in (*layer.inputs[1:], "", "")[:2]]
    return torch.clamp, (args[0], *(None if limit is None else float(limit[0]) for limit in limits))


def _reshape(graph: Graph, layer: Layer, args: Sequence[Any]) -> Made:
    return torch.reshape, (args[0], graph.type_of(layer.outputs[0]).shape)


_PLAIN: Mapping[str, Callable[..., Any]] = {
    "Relu": functional.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Erf": torch.erf, "Add": torch.add,
    "Sum": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "MatMul": torch.matmul,
    "GlobalAveragePool": global_average,
}  # fmt: skip
_WITH_ATTRIBUTES: Mapping[str, Callable[[Graph, Layer, Sequence[Any]], Made]] = {
    "Conv": _conv, "MaxPool": _max_pool, "AveragePool": _average_pool, "Gemm": _gemm, "LRN": _lrn, "Clip": _clip,
    "LayerNormalization": _layer_norm, "Gather": _gather, "Reshape": _reshape, "Flatten": _reshape,
    "Softmax": lambda _, layer, args: (torch.softmax, (args[0], layer.attr("axis", -1))),
    "Concat": lambda _, layer, args: (torch.cat, (list(args), layer.attr("axis"))),
    "Transpose": lambda _, layer, args: (torch.permute, (args[0], layer.attr("perm"))),
}  # fmt: skip
