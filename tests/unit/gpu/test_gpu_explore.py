"""Exploring a task that MetaSchedule has nothing for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_gpu_lower import write

from tuner.gpu import explore
from tuner.gpu.cuda import target_of
from tuner.gpu.lower import lower
from tuner.gpu.spec import GPUS
from tuner.graph.load import import_model


def test_a_task_without_a_design_space_keeps_its_default_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> Any:
        raise ValueError("The instruction SampleMoon is unknown.")

    spec = GPUS["rtx3090"]
    target = target_of(spec.device())
    model = import_model(write(tmp_path / "net.onnx"))
    task = lower(model.graph, model.weights, target).tasks[0]
    assert explore.Explorer(task, target, spec).why is None
    monkeypatch.setattr(explore, "design_spaces", unknown)
    explorer = explore.Explorer(task, target, spec)
    assert explorer.why == "The instruction SampleMoon is unknown."
    assert explorer.default().candidate.template == explore.DEFAULT
