"""``fusetune tune --precision bf16``: what it stores in 16 bits, what that costs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import assert_refused, assert_runs, assert_tight, conv_net, fusetune, here

from tuner.measure.device import cpu_features
from tuner.precision import DOT_FEATURE, ROUNDING, precision_of

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    conv_net(folder / "net.onnx")
    return folder


def test_a_whole_model_says_what_bf16_costs(home: Path) -> None:
    done = fusetune(home, "tune", "net.onnx", "--precision", "bf16", "--trials", 5, "--no-baselines", "--json",
                    "--out", "out", "--db", f"sqlite:///{home}/db")  # fmt: skip
    assert done.code == 0, done.err
    report = done.json
    assert report["precision"] == "bf16"
    checks, rounding = report["verification"], report["rounding"]
    assert checks["passed"] and checks["limit"] == 2e-2 and checks["max_rel_error"] < 2e-2
    assert rounding["allowed"] < 2e-2 and rounding["error_of_all"] > 0 and rounding["kept_fp32"] == []
    assert (rounding["stored_bf16"] > 0) == (DOT_FEATURE in cpu_features()) and rounding["images"] > 0
    blocks = [b for b in report["blocks"] if b["precision"] != "fp32"]
    assert {b["template"] for b in report["blocks"]} & set(ROUNDING) == {b["template"] for b in blocks}
    assert all(b["precision"] == precision_of(b["template"]) for b in report["blocks"])
    parameters = json.loads((home / "out" / "manifest.json").read_text())["parameters"]
    assert sum(p["dtype"] == "uint16" for p in parameters) == len(blocks)
    tried = [json.loads(line)["candidate"] for line in (home / "out" / "trials.jsonl").read_text().splitlines()]
    assert all(c["precision"] == precision_of(c["template"]) for c in tried)
    assert {c["template"] for c in tried} & set(ROUNDING)
    assert_runs(home, "out")


@pytest.mark.slow
def test_layers_that_the_limit_forbids_keep_float32(home: Path) -> None:
    assert_tight(home, "bf16", "1e-4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--precision", "fp16"), ("fp16", "on CPUs", "bf16", "--build-only")),
        (("--precision", "tf32"), ("tf32", "on CPUs", "bf16")),
        (("--precision", "bf16", "--device", "sim:mlu100"), ("bf16", "simulated", "fp32")),
        (("--precision", "bf16", "--accuracy", "0"), ("--accuracy",)),
        (("--accuracy", "nan"), ("--accuracy",)),
    ],
)
def test_what_is_not_supported_is_one_clear_error(home: Path, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = here(home, "tune", "net.onnx", *options, "--out", "no")
    assert_refused(done, home, "no", *words)


@pytest.mark.slow
def test_a_plan_in_bf16_is_refused_in_another_precision(home: Path) -> None:
    plan = here(home, "plan", "net.onnx", "--json").out
    (home / "plan.json").write_text(plan.replace('"template": "dense"', '"template": "dense_bf16"'))
    done = fusetune(home, "tune", "net.onnx", "--plan", "plan.json", "--trials", 0, "--out", "no")
    assert_refused(done, home, "no", "--precision bf16")
