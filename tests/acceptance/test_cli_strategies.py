"""``fusetune tune --strategy`` and simulated devices, as a user asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import complete, conv_net, fusetune

pytestmark = pytest.mark.alone

PLAN_FILES = {"plan.json", "report.json", "trials.jsonl", "manifest.json", "README.txt"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return conv_net(tmp_path / "net.onnx")


@pytest.mark.slow
def test_joint_on_this_cpu_keeps_the_best_whole(tmp_path: Path, model: Path) -> None:
    done = fusetune(tmp_path, "tune", model, "--strategy", "joint", "--trials", 30, "--db", f"sqlite:///{tmp_path}/db",
                    "--out", tmp_path / "out", "--json")  # fmt: skip
    assert done.code == 0, done.err
    report = done.json
    assert complete(tmp_path / "out") and report["strategy"] == "joint" and report["measured"] is True
    assert report["verification"]["passed"] and report["trials"]["measured"] <= 30
    latency = report["latency_ms"]
    others = [latency[name]["median"] for name in ("default", "greedy") if latency[name]]
    assert latency["tuned"]["median"] <= min(others)
    if report["prediction"]:
        assert report["prediction"]["predicted_ms"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["dlfusion", "tpe:plans=5", "fixed-layers:cores=1"])
def test_other_strategies_choose_a_plan_and_tune_it_here(tmp_path: Path, model: Path, strategy: str) -> None:
    done = fusetune(tmp_path, "tune", model, "--strategy", strategy, "--trials", 40, "--no-baselines",
                    "--db", f"sqlite:///{tmp_path}/db", "--out", tmp_path / "out", "--json")  # fmt: skip
    assert done.code == 0, done.err
    report = done.json
    assert complete(tmp_path / "out") and report["strategy"] == strategy and report["verification"]["passed"]
    assert 0 < report["trials"]["measured"] <= 40


def test_a_simulated_device_leaves_a_plan_and_says_what_it_is(tmp_path: Path, model: Path) -> None:
    out, db = tmp_path / "out", f"sqlite:///{tmp_path}/db"
    done = fusetune(tmp_path, "tune", model, "--device", "sim:mlu100", "--trials", 40, "--db", db, "--out", out)
    assert done.code == 0, done.err
    assert "simulated" in done.out
    assert {p.name for p in out.iterdir()} == PLAN_FILES
    report = json.loads((out / "report.json").read_text())
    assert report["device"]["simulated"] and not report["measured"] and report["latency_ms"]["onnxruntime"] is None
    assert report["speedup"]["over_unoptimised"] > 1.0
    assert "simulated" in (out / "README.txt").read_text()
    # The same again: what was measured is not measured again, and the folder is replaced.
    again = fusetune(tmp_path, "tune", model, "--device", "sim:mlu100", "--trials", 40, "--db", db, "--out", out)
    assert again.code == 0, again.err
    second = json.loads((out / "report.json").read_text())
    assert second["trials"]["reused"] > 0 and second["trials"]["measured"] < report["trials"]["measured"]


def test_a_baseline_that_the_cores_do_not_allow_is_left_out(tmp_path: Path, model: Path) -> None:
    done = fusetune(tmp_path, "tune", model, "--device", "sim:mlu100", "--cores", "4,8", "--trials", 40,
                    "--db", f"sqlite:///{tmp_path}/db", "--out", tmp_path / "out")  # fmt: skip
    assert done.code == 0, done.err
    assert "unoptimised is left out" in done.out and "4, 8" in done.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["latency_ms"]["unoptimised"] is None and report["latency_ms"]["unfused"]["median"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "cpu", "--strategy", "annealing"), "strategy"),
        (("--device", "cpu", "--strategy", "tpe:depth=3"), "depth"),
        (("--device", "sim:mlu100", "--strategy", "greedy"), "strategy"),
        (("--device", "sim:nothing"), "simulated device"),
    ],
)
def test_bad_wishes_get_one_clear_error(tmp_path: Path, model: Path, options: tuple[str, ...], said: str) -> None:
    done = fusetune(tmp_path, "tune", model, *options, "--db", f"sqlite:///{tmp_path}/db", "--out", tmp_path / "out")
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_device_is_calibrated_once_and_helps_the_search(tmp_path: Path, model: Path) -> None:
    db = f"sqlite:///{tmp_path}/db"
    done = fusetune(tmp_path, "calibrate", "--device", "sim:mlu100", "--blocks", 60, "--db", db, "--out",
                    tmp_path / "cal", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "cal" / "calibration.json").is_file() and list((tmp_path / "cal").glob("*.svg"))
    tuned = fusetune(tmp_path, "tune", model, "--device", "sim:mlu100", "--trials", 40, "--db", db, "--json")
    assert tuned.code == 0, tuned.err
    assert tuned.json["cost_model"]["median_ratio_error"] < 0.5
