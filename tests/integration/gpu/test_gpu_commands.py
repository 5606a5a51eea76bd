"""The commands: `fusetune tune --build-only` and `fusetune measure`, what they print and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.cli import FAILURE, USER_ERROR, main
from tests.integration.gpu.conftest import Round
from tests.unit.gpu.gpu_tools import RTX3090, fake_smi


@pytest.mark.slow
def test_a_model_is_built_for_a_gpu_that_is_not_here(
    compiler: None, first_round: Round, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--device", "rtx3090", "--build-only", "--trials", "2", "--seconds", "60", "--out", str(out)]
    assert main(["tune", str(first_round.model), *options]) == 0
    said = capsys.readouterr().out
    assert "not measured here" in said and "2 in the bundle" in said
    assert (out / "bundle" / "bundle.json").is_file()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--device", "cpu", "--build-only"], "not-a-gpu"),
        (["--device", "rtx3090", "--build-only", "--strategy", "greedy"], "bad-option"),
        (["--device", "rtx3090", "--build-only", "--results", "absent.json"], "bad-results"),
        (["--device", "rtx3090", "--build-only", "--precision", "bf16"], "bad-precision"),
        (["--device", "rtx3090", "--build-only", "--precision", "int4"], "bad-precision"),
        (["--device", "rtx3090", "--build-only", "--cores", "83"], "bad-cores"),
        (["--device", "rtx3090"], "device-not-here"),
        (["--results", "absent.json"], "bad-option"),
    ],
)
def test_what_cannot_be_built_is_refused(
    compiler: None, first_round: Round, options: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(first_round.model), *options, "--json"]) == USER_ERROR
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_measuring_names_what_is_missing(
    first_round: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def complaint(bundle: Path, expected: int) -> tuple[str, str]:
        assert main(["measure", str(bundle), "--json"]) == expected
        error = json.loads(capsys.readouterr().out)["error"]
        return error["code"], error["message"]

    assert complaint(tmp_path / "absent", USER_ERROR)[0] == "no-bundle"
    bundle = first_round.out / "bundle"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert complaint(bundle, FAILURE)[0] == "no-gpu"
    monkeypatch.setenv("PATH", str(fake_smi(tmp_path / "old", RTX3090.replace("580.95.05", "535.1"))))
    assert complaint(bundle, FAILURE)[0] == "old-driver"
    monkeypatch.setenv("PATH", str(fake_smi(tmp_path / "new", RTX3090)))
    code, message = complaint(bundle, FAILURE)  # a driver is there, it says, and no library of it
    assert code == "not-measurable" and "cannot open shared object file" in message


def test_running_an_artifact_for_a_gpu_names_what_is_missing(
    first_round: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["run", str(first_round.out)]) == FAILURE
    assert "There is no NVIDIA GPU here" in capsys.readouterr().err
    other = RTX3090.replace("8.6", "9.0")
    monkeypatch.setenv("PATH", str(fake_smi(tmp_path / "other", other)))
    assert main(["run", str(first_round.out)]) == FAILURE
    assert "built for sm_86" in capsys.readouterr().err
