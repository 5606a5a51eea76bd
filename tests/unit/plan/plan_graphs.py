"""Graphs written by hand, and random ones, for the tests of plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.types import Device

IMAGE = (1, 32, 8, 8)
DEVICE = Device("cpu", "cpu", "test", "x86-64-v3", (), 2, 8, 16, 32 << 10, 1 << 20, 8 << 20, 1 << 33)


def layer(op: str, inputs: Sequence[str], output: str | Sequence[str], **attrs: Any) -> Layer:
    """A layer whose id is its (first) output's name in capitals."""
    outputs = (output,) if isinstance(output, str) else tuple(output)
    return Layer(outputs[0].upper(), op, tuple(inputs), outputs, freeze_attrs(attrs))


def graph_of(
    layers: Sequence[Layer],
    outputs: Sequence[str],
    *,
    inputs: Sequence[str] = ("x",),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    constants: Mapping[str, tuple[int, ...]] | None = None,
) -> Graph:
    """Tensors have the shape IMAGE unless ``shapes`` says otherwise."""
    names = [*inputs, *(o for x in layers for o in x.outputs)]
    known = shapes or {}
    return Graph(
        tuple(inputs),
        tuple(outputs),
        tuple(layers),
        {n: Tensor(n, known.get(n, IMAGE)) for n in names},
        {n: Constant(n, shape, digest=f"digest of {n}") for n, shape in (constants or {}).items()},
    )


def conv(source: str, output: str, weights: str = "w") -> Layer:
    return layer("Conv", [source, weights], output, kernel_shape=(3, 3), pads=(1, 1, 1, 1))


WEIGHTS = {"w": (32, 32, 3, 3)}


def residual() -> Graph:
    """ResNet's block: two convolutions, the second added to the block's input, Relus behind both."""
    return graph_of(
        [
            layer("Relu", ["x"], "start"),
            conv("start", "c1"),
            layer("Relu", ["c1"], "r1"),
            conv("r1", "c2"),
            layer("Add", ["c2", "start"], "sum"),
            layer("Relu", ["sum"], "out"),
        ],
        ["out"],
        constants=WEIGHTS,
    )


def random_dag(seed: int, count: int = 14) -> tuple[Graph, dict[str, np.ndarray]]:
    """A tangle of Conv, Add, Relu, Sigmoid, Mul, Concat and MaxPool; some tensors in the middle are results too.

    With the weights, scaled so that numbers neither grow nor fade.
    """
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    channels = {"x": 8}
    weights: dict[str, np.ndarray] = {}

    def pick() -> str:
        names = list(channels)
        return names[-1] if rng.random() < 0.5 else names[int(rng.integers(len(names)))]

    for k in range(count):
        out, a, b = f"t{k}", pick(), pick()
        op = ["Conv", "Conv", "Add", "Relu", "Sigmoid", "Mul", "Concat", "MaxPool", "Relu"][int(rng.integers(9))]
        if op == "Concat" and channels[a] + channels[b] > 64:
            op = "Relu"
        if op in {"Add", "Mul"} and channels[a] != channels[b]:
            b = next(n for n in channels if channels[n] == channels[a])
        if op == "Conv":
            size, kernel = int(rng.choice([8, 8, 12, 16])), int(rng.choice([1, 3]))
            array = rng.standard_normal((size, channels[a], kernel, kernel)) / np.sqrt(channels[a] * kernel**2)
            weights[f"w{k}"] = array.astype(np.float32)
            layers.append(layer("Conv", [a, f"w{k}"], out, kernel_shape=(kernel, kernel), pads=(kernel // 2,) * 4))
            channels[out] = size
            continue
        if op == "MaxPool":
            layers.append(layer(op, [a], out, kernel_shape=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1)))
        elif op == "Concat":
            layers.append(layer(op, [a, b], out, axis=1))
        else:
            layers.append(layer(op, [a, b] if op in {"Add", "Mul"} else [a], out))
        channels[out] = channels[a] + channels[b] if op == "Concat" else channels[a]
    read = {n for x in layers for n in x.inputs}
    outputs = [n for n in channels if n != "x" and (n not in read or rng.random() < 0.15)]
    shapes = {n: (1, c, 6, 7) for n, c in channels.items()}
    sizes = {n: w.shape for n, w in weights.items()}
    return graph_of(layers, outputs, shapes=shapes, constants=sizes), weights
