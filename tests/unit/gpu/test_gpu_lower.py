"""Lowering for a GPU: what becomes of names, and of layers that are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tuner.gpu.checking import check_lowering
from tuner.gpu.cuda import target_of
from tuner.gpu.lower import lower
from tuner.gpu.precision import LIMITS
from tuner.gpu.spec import GPUS
from tuner.graph.load import import_model
from tuner.inputs import Inputs


def write(path: Path) -> Path:
    """Three convolutions, two of them alike, with weights whose names are none in C."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "in/x"
    for number, kernel in enumerate((3, 3, 1)):
        name = f"stage{number}/conv-w:0"
        weights.append(numpy_helper.from_array(random.random((8, 8, kernel, kernel), np.float32), name))
        nodes.append(helper.make_node("Conv", [last, name], [f"{number}/y"], pads=[kernel // 2] * 4))
        last = f"{number}/y"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, 6, 6]) for n in ("in/x", last)]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_names_may_stand_in_c_and_equal_functions_are_one_task(tmp_path: Path) -> None:
    model = import_model(write(tmp_path / "net.onnx"))
    lowered = lower(model.graph, model.weights, target_of(GPUS["rtx3090"].device()))
    calls = sorted(task.calls for task in lowered.tasks if "conv2d" in task.name)
    assert calls == [1, 2]
    for task in lowered.tasks:
        assert all(parameter.name.isidentifier() for parameter in task.module["main"].params)


def activated(path: Path, name: str) -> Path:
    """A convolution, a depthwise one and a last one, the first two with an activation."""
    random = np.random.default_rng(1)
    shapes = {"w0": (16, 8, 1, 1), "w1": (16, 1, 3, 3), "w2": (8, 16, 1, 1)}
    weights = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    weights += [numpy_helper.from_array(np.float32(v), n) for n, v in (("low", -0.5), ("high", 3.0))]
    bounds = {"Clip": ["low", "high"]}.get(name, [])
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]), helper.make_node(name, ["a", *bounds], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1], group=16),
        helper.make_node(name, ["c", *bounds], ["d"]), helper.make_node("Conv", ["d", "w2"], ["y"]),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, 6, 6]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
@pytest.mark.parametrize("name", ["Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid"])
def test_activations_go_with_their_convolutions_with_channels_last_too(
    name: str, precision: str, tmp_path: Path
) -> None:
    path = activated(tmp_path / "net.onnx", name)
    model = import_model(path)
    lowered = lower(model.graph, model.weights, target_of(GPUS["rtx3090"].device()), precision)
    turned = [task for task in lowered.tasks if "conv2d" not in task.name]
    assert sum(task.calls for task in turned) == 2, [task.name for task in turned]  # the input, and the result
    assert sum(task.calls for task in lowered.tasks) == 5
    inputs = Inputs(model.graph, {}, 0).sets
    assert check_lowering(lowered, model.graph, path, inputs, LIMITS[precision]).passed
