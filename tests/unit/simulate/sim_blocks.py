"""Blocks for the simulated machine, and spec files for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.simulate.spec import SPECS, load

MLU, XEON = load("mlu100"), load("xeon-4214r")
ROOMY = replace(MLU, core_memory=1e12)  # everything fits on chip
WIDE = replace(ROOMY, bandwidth=1e18, core_bandwidth=1e18)  # and moving costs nothing


def spec_json(name: str = "mlu100") -> dict[str, Any]:
    data: dict[str, Any] = json.loads((SPECS / f"{name}.json").read_text())
    return data


def convs(
    depth: int = 1, channels: int = 64, size: int = 56, kernel: int = 3, relu: bool = False, groups: int = 1,
    out: int | None = None,
) -> Graph:  # fmt: skip
    """``depth`` convolutions one behind the other, of stride 1, each with a Relu if wanted."""
    tensors, constants, layers, source = {"i0": Tensor("i0", (1, channels, size, size))}, {}, [], "i0"
    pad, before = kernel // 2, channels
    for k in range(depth):
        made = out or channels
        constants[f"c{k}"] = Constant(f"c{k}", (made, before // groups, kernel, kernel))
        attrs = freeze_attrs({"kernel_shape": (kernel, kernel), "pads": (pad,) * 4, "group": groups})
        layers.append(Layer(f"l{len(layers)}", "Conv", (source, f"c{k}"), (f"t{len(layers)}",), attrs))
        if relu:
            layers.append(Layer(f"l{len(layers)}", "Relu", (f"t{len(layers) - 1}",), (f"t{len(layers)}",)))
        source, before = layers[-1].outputs[0], made
        tensors |= {x.outputs[0]: Tensor(x.outputs[0], (1, made, size, size)) for x in layers[-2:]}
    return Graph(("i0",), (source,), tuple(layers), tensors, constants)


def relu(channels: int = 64, size: int = 56) -> Graph:
    tensors = {n: Tensor(n, (1, channels, size, size)) for n in ("i0", "t0")}
    return Graph(("i0",), ("t0",), (Layer("l0", "Relu", ("i0",), ("t0",)),), tensors, {})


def dense(inputs: int = 4096, outputs: int = 4096, batch: int = 1) -> Graph:
    layer = Layer("l0", "Gemm", ("i0", "c0"), ("t0",), freeze_attrs({"transB": 1}))
    tensors = {"i0": Tensor("i0", (batch, inputs)), "t0": Tensor("t0", (batch, outputs))}
    return Graph(("i0",), ("t0",), (layer,), tensors, {"c0": Constant("c0", (outputs, inputs))})


def convs_then_dense(outputs: int = 4096) -> Graph:
    """A convolution of 64 channels on 14 x 14, flattened, and a dense layer."""
    graph = convs(1, 64, 14)
    flatten = Layer("l1", "Flatten", ("t0",), ("t1",), freeze_attrs({"axis": 1}))
    gemm = Layer("l2", "Gemm", ("t1", "c1"), ("t2",), freeze_attrs({"transB": 1}))
    width = 64 * 14 * 14
    tensors = {**graph.tensors, "t1": Tensor("t1", (1, width)), "t2": Tensor("t2", (1, outputs))}
    constants = {**graph.constants, "c1": Constant("c1", (outputs, width))}
    return Graph(("i0",), ("t2",), (*graph.layers, flatten, gemm), tensors, constants)


def shapes() -> Sequence[tuple[str, Graph]]:
    """Blocks of every kind."""
    return (
        ("conv", convs()), ("conv 1x1", convs(kernel=1)), ("deep", convs(6, relu=True)), ("wide", convs(2, 512, 14)),
        ("depthwise", convs(2, 128, 28, groups=128)), ("grouped", convs(1, 96, 27, 5, groups=2)),
        ("few channels", convs(1, 3, 224, out=64)), ("large", convs(2, 64, 224)), ("relu", relu()),
        ("dense", dense()), ("batch", dense(batch=8)), ("tiny", convs(1, 16, 7, 1)),
        ("conv and dense", convs_then_dense()),
    )  # fmt: skip
