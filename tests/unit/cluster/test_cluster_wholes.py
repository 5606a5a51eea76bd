"""Whole models sent to a machine with all the files that they are made of."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from one_host import OneHost
from onnx import TensorProto, helper, numpy_helper

from tuner.graph.load import import_model
from tuner.measure.cluster.conversation import Conversation
from tuner.measure.cluster.host import Host
from tuner.measure.cluster.wholes import ClusterModels
from tuner.measure.contest import Contestant
from tuner.measure.device import detect_cpu

WEIGHTS = np.arange(4096, dtype=np.float32)


@pytest.mark.parametrize("location", ["", "weights.bin", "weights/of/m.bin"])
def test_weights_beside_a_model_go_along(tmp_path: Path, location: str) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, WEIGHTS.shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "m", [x], [y],
                              [numpy_helper.from_array(WEIGHTS, "w")])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = tmp_path / "m.onnx"
    if location:
        (tmp_path / location).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    else:
        onnx.save(model, path)
    assert import_model(path).beside == ((location,) if location else ())
    device = detect_cpu()
    with closing(Host(device, 0, device.cores)) as host:
        models = ClusterModels(Conversation(OneHost(host), device))  # type: ignore[arg-type]
        contestant = Contestant("m", "onnxruntime", path, beside=import_model(path).beside)
        (found,) = models.outputs(contestant, [{"x": WEIGHTS}], 1)
    np.testing.assert_array_equal(found["y"], 2 * WEIGHTS)
