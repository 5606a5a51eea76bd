"""Lowering for a GPU: what becomes of names, and of layers that are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tuner.gpu.cuda import target_of
from tuner.gpu.lower import lower
from tuner.gpu.spec import GPUS
from tuner.graph.load import import_model


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
