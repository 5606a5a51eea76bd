"""python -m bench.gpu over a stand-in for a GPU: a kit's candidates, contenders that run or say why not, the row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench.gpu import __main__ as bench
from bench.gpu.contest import Contender
from bench.gpu.kit import TUNED, UNTUNED
from bench.lines import read
from tests.integration.gpu.conftest import Round, unchecked


@pytest.fixture
def kit(first_round: Round, tmp_path: Path) -> Path:
    """A kit whose two artifacts are one, and without weights, as if they had been too large to travel."""
    folder = tmp_path / "kit"
    for part in (TUNED, UNTUNED):
        shutil.copytree(first_round.out, folder / part)
        (folder / part / "params.bin").unlink()
    unchecked(folder / TUNED / "bundle", 4)
    facts = {"model": "squeezenet", "batch": 1, "precision": "fp32", "device": "rtx3090", "arch": "sm_86",
             "weights": False, "seconds": 1.0}  # fmt: skip
    (folder / "kit.json").write_text(json.dumps(facts))
    return folder


def test_a_row_has_ours_and_says_why_others_have_no_time(
    gpu: bool, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not gpu:
        return

    def bare(*_: object) -> None:
        raise ModuleNotFoundError(name="onnx")

    monkeypatch.setattr(bench, "write_model", bare)
    rows = tmp_path / "rows" / "gpu.jsonl"
    command = ["squeezenet", "--precision", "fp32", "--kit", str(kit), "--rows", str(rows), "--rounds", "2", "--turn",
               "0.01", "--contenders", "tuned,sequential,tvm,torch-compile"]  # fmt: skip
    assert bench.main(command) == 0
    (row,) = read(rows)
    assert (row["model"], row["batch"], row["precision"]) == ("squeezenet", 1, "fp32")
    assert row["gpu"]["model"] == "NVIDIA GeForce RTX 3090" and row["bundle"] == {"candidates": 4, "failed": 0}
    ours, sequential, tvm, compiled = row["contenders"]
    assert all(each["median_ms"] > 0 and each["failure"] is None for each in (ours, sequential, tvm))
    assert ours["note"]["how"] == "graph" and 0 < ours["note"]["kernels_measured"] <= ours["note"]["kernels"]
    assert compiled["median_ms"] is None and "onnx is not installed here" in compiled["failure"]
    assert (rows.parent / "results-kit.json").is_file()  # for the next round of building
    capsys.readouterr()
    assert bench.main(command) == 0
    assert "has a row" in capsys.readouterr().out and len(list(read(rows))) == 1


def test_without_a_gpu_the_bench_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = tmp_path / "gpu.jsonl"
    assert bench.main(["resnet50", "--rows", str(rows)]) == 1
    assert "There is no NVIDIA GPU here" in capsys.readouterr().err
    assert not rows.exists()


def test_a_contender_that_hangs_is_out_and_its_process_gone(
    gpu: bool, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not gpu:
        return
    monkeypatch.setenv("STAND_IN_HANG", "1")
    config = {"kit": str(kit), "results": None, "precision": "fp32", "weights": False, "model": None, "no_model": ""}
    contender = Contender("sequential", config, tmp_path / "log")
    contender.start(2.0)
    assert "took more than 2 s to be ready" in contender.failed
    contender.turn(0.01)
    assert contender.to_json()["median_ms"] is None
