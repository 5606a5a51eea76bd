"""A small network with layers that become several tasks, and a build of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tuner.types import Budget, JobSpec


def write_network(path: Path) -> Path:
    """Two equal 3x3 convolutions with ReLU, a shortcut, average pooling, a dense layer; one name that is none in C."""
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((0.2 * random.standard_normal(shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "stem/w1:0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "w3", "b3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 14, 14])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [weights("stem/w1:0", 16, 16, 3, 3), weights("w2", 16, 16, 3, 3), weights("w3", 10, 16), weights("b3", 10)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def job(trials: int | None = None, seconds: float | None = None, chains: bool = False) -> JobSpec:
    """Without ``chains`` the network's convolutions stay tasks of their own."""
    off = () if chains else ("fuse-chains",)
    budget = Budget(trials, seconds)
    return JobSpec(model="", device="rtx3090", strategy="metaschedule", budget=budget, disabled_passes=off)
