"""Tuning on a GPU that is here, a stand-in: rounds, candidates that fail, the artifact that says it was measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.cli import FAILURE, main
from tests.integration.gpu.conftest import Round, unchecked
from tests.integration.gpu.gpu_models import job
from tuner.errors import DeviceError
from tuner.gpu import rounds
from tuner.gpu.bundle_run import Unusable, measure
from tuner.gpu.rounds import Rounds
from tuner.measure.device import devices

DEVICE = devices("rtx3090")


@pytest.fixture
def builds(first_round: Round, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """Builds that are done already: (trials asked for, results brought) of each."""
    asked: list[tuple[Any, int]] = []

    class Built:
        def __init__(self, spec: Any, model: Path, device: Any, out: Path, results: Sequence[Path], *_: Any) -> None:
            asked.append((spec.budget.trials, len(results)))
            self.out = out

        def run(self) -> dict[str, Any]:
            shutil.copytree(first_round.out, self.out)
            return json.loads((self.out / "report.json").read_text())

        def stop(self) -> None:
            return

    monkeypatch.setattr(rounds, "BuildOnly", Built)
    return asked


def on_stand_in(bundle: Path, **options: Any) -> dict[str, Any]:
    return measure(unchecked(bundle, 2), **options)


def test_rounds_bring_what_they_measured_and_the_artifact_is_timed(
    gpu: bool, builds: list[tuple[Any, int]], first_round: Round, tmp_path: Path
) -> None:
    if not gpu:
        return
    out = tmp_path / "out"
    tuning = Rounds(job(trials=3, seconds=600), first_round.model, DEVICE, out, measure=on_stand_in)
    report = tuning.run()
    assert builds == [(3, 0), (1, 1), (0, 2)]
    assert report["measured"] is True and report["trials"]["measured"] == 4
    assert report["latency_ms"]["tuned"]["median"] > 0 and report["launches"]["how"] == "graph"
    assert json.loads((out / "manifest.json").read_text())["measured"] is True
    assert json.loads((out / "report.json").read_text()) == report


def test_without_trials_there_is_one_build(
    gpu: bool, builds: list[tuple[Any, int]], first_round: Round, tmp_path: Path
) -> None:
    if not gpu:
        return
    report = Rounds(job(trials=0), first_round.model, DEVICE, tmp_path / "out", measure=on_stand_in).run()
    assert builds == [(0, 0)] and report["measured"] is True


def test_a_gpu_that_measures_nothing_ends_the_job_with_the_reason(
    builds: list[tuple[Any, int]], first_round: Round, tmp_path: Path
) -> None:
    def lost(*_: Any, **__: Any) -> dict[str, Any]:
        raise Unusable("The CUDA runtime finds no GPU.")

    with pytest.raises(DeviceError, match="finds no GPU") as raised:
        Rounds(job(), first_round.model, DEVICE, tmp_path / "out", measure=lost).run()
    assert raised.value.code == "not-measurable"
    assert not (tmp_path / "out").exists()


def test_the_command_names_what_is_missing(
    first_round: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["tune", str(first_round.model), "--device", "gpu", "--json"]) == FAILURE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "no-gpu"


@pytest.mark.slow
def test_a_model_is_tuned_in_real_rounds(
    gpu: bool, compiler: None, first_round: Round, tmp_path: Path
) -> None:  # fmt: skip
    if not gpu:
        return
    out = tmp_path / "out"
    report = Rounds(job(trials=3, seconds=600), first_round.model, DEVICE, out, measure=on_stand_in).run()
    assert report["measured"] is True and any(block["ms"] is not None for block in report["blocks"])
