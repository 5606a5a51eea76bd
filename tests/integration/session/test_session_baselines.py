"""Baselines for which a job has no time are left out, and the report says why."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

sys.path.append(str(Path(__file__).parents[1] / "build"))
from build_models import machine, node

from tuner import allowance
from tuner.session import Session
from tuner.types import Budget, JobSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = (1, 16, 8, 8)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([node("Relu", ["x"], "a"), node("Sigmoid", ["a"], "y")], "m", ends[:1], ends[1:])
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.mark.parametrize("scarce", [True, False])
def test_baselines_without_time(model: Path, monkeypatch: pytest.MonkeyPatch, scarce: bool) -> None:
    if scarce:
        monkeypatch.setattr(allowance, "BASELINES_LEAST", 0.0)
        monkeypatch.setattr(allowance, "BASELINES_SHARE", 0.0)
    spec = JobSpec("m", budget=Budget(seconds=3.0))
    report = Session(spec, model, machine(), search=False).run()
    latency, left_out = report["latency_ms"], report["left_out"]
    assert latency["tuned"] and latency["default"] and latency["onnxruntime"]
    for name in ("unoptimised", "unfused"):
        assert (latency[name] is None) == scarce == (name in left_out)
        assert (report["speedup"][f"over_{name}"] is None) == scarce
    assert all("of the 3 seconds" in why for why in left_out.values())
