"""How much work a layer is: operations and bytes. Plain arithmetic over a Graph."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tuner.graph.ir import Graph, Layer

_PER_ELEMENT = {  # operations per output element; one each for those not listed
    "BatchNormalization": 2, "Sigmoid": 4, "Tanh": 5, "Gelu": 8, "Erf": 6, "Softmax": 5, "LogSoftmax": 5,
    "LayerNormalization": 7, "InstanceNormalization": 7, "GroupNormalization": 7, "LRN": 8, "HardSwish": 4,
    "HardSigmoid": 3, "Elu": 4, "Clip": 2, "Softplus": 6, "Softsign": 3, "Mish": 8, "Selu": 5, "Celu": 4,
}  # fmt: skip
_MOVES = frozenset(
    {
        "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "Pad",
        "Identity", "Dropout", "Expand", "Tile", "Cast", "Shape", "Constant", "ConstantOfShape", "DepthToSpace",
        "SpaceToDepth",
    }
)  # fmt: skip


@dataclass(frozen=True)
class LayerCost:
    """Work of one call of one layer."""

    macs: int  # multiply-accumulates; 0 for layers without
    ops: int  # 2 * macs, or operations counted per element; 0 for layers that only move data
    channels: int  # of the first output: its axis 1, or its last axis when it has fewer than three
    bytes_read: int  # distinct inputs and constants, each once
    bytes_written: int


def layer_cost(graph: Graph, layer: Layer) -> LayerCost:
    """The cost of ``layer``, which belongs to ``graph``."""
    outputs = [graph.tensors[name] for name in layer.outputs if name]
    shape = outputs[0].shape
    macs = _macs(graph, layer)
    return LayerCost(
        macs=macs,
        ops=2 * macs if macs else _operations(graph, layer),
        channels=(shape[1] if len(shape) > 2 else shape[-1]) if shape else 1,
        bytes_read=sum(graph.type_of(name).bytes for name in dict.fromkeys(layer.inputs) if name),
        bytes_written=sum(tensor.bytes for tensor in outputs),
    )


def total_macs(graph: Graph) -> int:
    """Multiply-accumulates of one run of the model."""
    return sum(_macs(graph, layer) for layer in graph.layers)


def _macs(graph: Graph, layer: Layer) -> int:
    if layer.domain:
        return 0
    if layer.op in ("Conv", "ConvInteger", "QLinearConv"):  # each output element reads one filter
        weights = layer.inputs[3] if layer.op == "QLinearConv" else layer.inputs[1]
        return _elements(graph, layer.outputs[0]) * prod(graph.type_of(weights).shape[1:])
    if layer.op == "ConvTranspose":  # each input element is spread over one filter
        return _elements(graph, layer.inputs[0]) * prod(graph.type_of(layer.inputs[1]).shape[1:])
    if layer.op == "Gemm":
        a = graph.type_of(layer.inputs[0]).shape
        return _elements(graph, layer.outputs[0]) * a[0 if layer.attr("transA", 0) else 1]
    if layer.op in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return _elements(graph, layer.outputs[0]) * graph.type_of(layer.inputs[0]).shape[-1]
    if layer.op in ("LSTM", "GRU", "RNN"):  # W [D, G*H, I] and R [D, G*H, H] at each step of X [T, N, I]
        steps = prod(graph.type_of(layer.inputs[0]).shape[:2])
        return steps * sum(graph.type_of(name).elements for name in layer.inputs[1:3])
    return 0


def _operations(graph: Graph, layer: Layer) -> int:
    if layer.domain == "" and layer.op in _MOVES:
        return 0
    out = _elements(graph, next(name for name in layer.outputs if name))
    if layer.op in ("MaxPool", "AveragePool", "LpPool"):
        return out * prod(layer.attr("kernel_shape", (1,)))
    if layer.op.startswith(("Global", "Reduce", "Arg")):
        return _elements(graph, layer.inputs[0])
    if layer.op in ("Sum", "Max", "Min", "Mean"):
        return out * max(1, len(layer.inputs) - 1)
    return out * _PER_ELEMENT.get(layer.op, 1)


def _elements(graph: Graph, name: str) -> int:
    return graph.type_of(name).elements
