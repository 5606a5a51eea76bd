"""``fusetune tune --precision int8``: which layers become integers, what that costs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import assert_refused, assert_runs, assert_tight, conv_net, fusetune, here

from tuner.measure.device import cpu_features
from tuner.precision import INT8_FEATURE, precision_of

pytestmark = pytest.mark.alone
needs_vnni = pytest.mark.skipif(INT8_FEATURE not in cpu_features(), reason="this processor has no AVX512-VNNI")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    conv_net(folder / "net.onnx")
    return folder


@needs_vnni
def test_a_whole_model_says_what_int8_costs(home: Path) -> None:
    done = fusetune(home, "tune", "net.onnx", "--precision", "int8", "--trials", 5, "--no-baselines", "--json",
                    "--out", "out", "--db", f"sqlite:///{home}/db")  # fmt: skip
    assert done.code == 0, done.err
    report = done.json
    assert report["precision"] == "int8"
    checks, rounding = report["verification"], report["rounding"]
    assert checks["passed"] and checks["limit"] == 5e-2 and 1e-4 < checks["max_rel_error"] < 5e-2
    assert 0 < rounding["error_of_all"] <= rounding["allowed"] < 5e-2 and rounding["kept_fp32"] == []
    assert rounding["stored_bf16"] == 0
    assert all(b["precision"] == precision_of(b["template"]) for b in report["blocks"])
    assert {b["precision"] for b in report["blocks"]} <= {"fp32", "int8"}
    parameters = json.loads((home / "out" / "manifest.json").read_text())["parameters"]
    integers = sum(b["precision"] == "int8" for b in report["blocks"])
    assert sum(p["dtype"] == "int8" for p in parameters) == integers
    tried = [json.loads(line)["candidate"] for line in (home / "out" / "trials.jsonl").read_text().splitlines()]
    assert {c["precision"] for c in tried} <= {"fp32", "int8"} and any(c["template"] == "conv2d_int8" for c in tried)
    assert_runs(home, "out")


@needs_vnni
def test_a_plan_by_hand_is_calibrated_too_and_all_kernels_are_integers(home: Path) -> None:
    plan = here(home, "plan", "net.onnx", "--json").out
    (home / "plan.json").write_text(plan.replace('"template": "conv2d"', '"template": "conv2d_int8"'))
    done = fusetune(home, "tune", "net.onnx", "--plan", "plan.json", "--precision", "int8", "--trials", 0, "--json",
                    "--no-baselines", "--out", "hand", "--db", f"sqlite:///{home}/db")  # fmt: skip
    assert done.code == 0, done.err
    report = done.json
    assert sum(b["precision"] == "int8" for b in report["blocks"]) == 3 and report["verification"]["passed"]
    assert 1e-4 < report["verification"]["max_rel_error"] < 5e-2 and report["rounding"] is None
    refused = fusetune(home, "tune", "net.onnx", "--plan", "plan.json", "--trials", 0, "--out", "no")
    assert_refused(refused, home, "no", "--precision int8")


@needs_vnni
@pytest.mark.slow
def test_layers_that_the_limit_forbids_keep_float32(home: Path) -> None:
    assert_tight(home, "int8", "5e-4")


def test_what_is_not_supported_is_one_clear_error(home: Path) -> None:
    done = here(home, "tune", "net.onnx", "--precision", "int8", "--device", "sim:mlu100", "--out", "no")
    assert_refused(done, home, "no", "int8", "simulated", "fp32")


@needs_vnni
def test_a_processor_without_the_instruction_is_one_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.precision.INT8_FEATURE", "none_such")
    done = here(home, "tune", "net.onnx", "--precision", "int8", "--trials", 0, "--out", "no")
    assert_refused(done, home, "no", "AVX512-VNNI")
