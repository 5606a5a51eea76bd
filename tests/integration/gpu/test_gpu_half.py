"""float16 with tensor cores, as far as that can be seen on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.gpu.conftest import Round
from tests.integration.gpu.gpu_models import job
from tuner.gpu.build_only import BuildOnly
from tuner.gpu.checking import check_lowering
from tuner.gpu.cuda import target_of
from tuner.gpu.lower import lower
from tuner.gpu.precision import LIMITS
from tuner.graph.load import import_model
from tuner.inputs import Inputs
from tuner.measure.device import devices

DEVICE = devices("rtx3090")


def test_weights_are_halved_ahead_and_inputs_and_outputs_stay(first_round: Round) -> None:
    model = import_model(first_round.model)
    lowered = lower(model.graph, model.weights, target_of(DEVICE), "fp16")
    assert sorted(str(p.dtype) for p in lowered.parameters) == ["float16"] * 3 + ["float32"]
    convolutions = [task for task in lowered.tasks if "conv2d" in task.name]
    assert all(dtype == "float16" for task in convolutions for _, dtype in task.args[:2])
    assert any("relu" in task.name for task in convolutions)  # what is elementwise is fused as in float32
    assert (lowered.tasks[0].args[0][1], lowered.tasks[-1].args[-1][1]) == ("float32", "float32")
    inputs = Inputs(model.graph, {}, 0).sets
    verification = check_lowering(lowered, model.graph, first_round.model, inputs, LIMITS["fp16"])
    assert verification.passed
    assert verification.max_rel_error > 1e-5  # it is no float32


@pytest.mark.slow
def test_convolutions_take_tensor_cores_and_are_checked(compiler: None, first_round: Round, tmp_path: Path) -> None:
    spec = replace(job(), precision="fp16")
    report = BuildOnly(spec, first_round.model, DEVICE, tmp_path / "out").run()
    assert report["precision"] == "fp16"
    assert 1e-5 < report["verification"]["max_rel_error"] < report["verification"]["limit"] == LIMITS["fp16"]
    convolutions = [block for block in report["blocks"] if "conv2d" in block["function"]]
    assert convolutions and all(block["tensor_cores"] for block in convolutions)
    assert all(block["checked_error"] is not None and block["checked_error"] < 2e-3 for block in convolutions)
