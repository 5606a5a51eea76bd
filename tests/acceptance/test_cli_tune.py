"""``fusetune tune`` as a user runs it: what it leaves, what it reports, what it measures and what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_tools import FILES, TRIALS, Tuned, complete, conv_net, fusetune, lines

pytestmark = pytest.mark.alone

KEYS = [
    "model.sha256",
    "device.name",
    "device.fingerprint",
    "device.cores",
    "device.simulated",
    "toolchain",
    "strategy",
    "measured",
    "budget.trials",
    "budget.seconds",
    "trials.measured",
    "trials.failed",
    "trials.reused",
    "seconds.total",
    "seconds.building",
    "seconds.measuring",
    "seconds.deciding",
    "latency_ms.tuned",
    "latency_ms.unoptimised",
    "latency_ms.unfused",
    "latency_ms.default",
    "latency_ms.onnxruntime",
    "speedup.over_unoptimised",
    "speedup.over_onnxruntime",
    "verification.max_abs_error",
    "verification.max_rel_error",
    "verification.passed",
    "blocks",
]


def value(report: dict, key: str) -> object:
    for part in key.split("."):
        report = report[part]
    return report


def question(trial: dict) -> str:
    """What was built and measured."""
    return json.dumps({k: trial["candidate"][k] for k in ("workload_hash", "layouts", "template", "cores", "knobs")})


def test_every_file_is_there(tuned: Tuned) -> None:
    assert complete(tuned.out)
    logs = {p.name for p in (tuned.out / "tuning_log").iterdir()}
    assert {"database_workload.json", "database_tuning_record.json"} <= logs
    assert {p.name for p in tuned.home.iterdir() if p.name.startswith(".tuned")} == set()  # nothing half-written


def test_the_report_has_every_key_that_others_rely_on(tuned: Tuned) -> None:
    report = tuned.done.json
    assert report == json.loads((tuned.out / "report.json").read_text())
    found = {key: value(report, key) for key in KEYS}  # a KeyError names the missing one
    assert found["budget.trials"] == TRIALS
    assert found["strategy"] == "joint"
    assert found["verification.passed"] is True
    assert found["latency_ms.unoptimised"] is None  # not measured: --no-baselines
    for name in ("tuned", "default", "onnxruntime"):
        assert found[f"latency_ms.{name}"].keys() == {"median", "min", "samples"}
        assert 0 < found[f"latency_ms.{name}"]["min"] <= found[f"latency_ms.{name}"]["median"]
    ratio = report["latency_ms"]["onnxruntime"]["median"] / report["latency_ms"]["tuned"]["median"]
    assert report["speedup"]["over_onnxruntime"] == pytest.approx(ratio, rel=0.5)  # the latter is paired by rounds


def test_the_blocks_are_the_model(tuned: Tuned) -> None:
    report = tuned.done.json
    blocks = report["blocks"]
    named = [layer for block in blocks for layer in block["layers"]]
    assert len(named) == len(set(named)) == report["model"]["layers"]
    for block in blocks:
        assert {"layers", "cores", "layouts", "template", "knobs", "ms", "gflops", "share"} <= block.keys()
    assert sum(b["share"] for b in blocks) == pytest.approx(1, abs=0.01)


def test_trials_are_counted_and_written_down(tuned: Tuned) -> None:
    trials = lines(tuned.out / "trials.jsonl")
    counts = tuned.done.json["trials"]
    assert 0 < len(trials) == counts["measured"] <= TRIALS
    assert counts["failed"] == sum(t["failure"] is not None for t in trials)
    assert counts["reused"] == 0
    for trial in trials:
        assert bool(trial["samples"]) != bool(trial["failure"])
    searched = [question(t) for t in trials if t["purpose"] != "final"]
    assert len(set(searched)) == len(searched)


def test_the_same_job_again_measures_no_kernel(tuned: Tuned) -> None:
    done = tuned.again("--trials", TRIALS, out=tuned.home / "again")
    assert done.code == 0, done.err
    report = done.json
    assert report["reused"] is True
    assert report["trials"]["measured"] == 0
    assert report["trials"]["reused"] > 0
    assert report["latency_ms"]["tuned"] is not None  # whole models are timed anew
    assert len(lines(tuned.home / "again" / "trials.jsonl")) == len(lines(tuned.out / "trials.jsonl"))


def test_no_trials_means_defaults_whatever_is_stored(tuned: Tuned) -> None:
    """Also: a real input is verified on."""
    image = np.random.default_rng(1).random((1, 16, 24, 24), dtype=np.float32)
    np.save(tuned.home / "image.npy", image)
    out = tuned.home / "defaults"
    done = tuned.again("--trials", 0, "--input", "image=image.npy", out=out)
    assert done.code == 0, done.err
    report = done.json
    assert report["trials"] == {"measured": 0, "failed": 0, "reused": 0, "failures": {}}
    assert report["latency_ms"]["tuned"] == report["latency_ms"]["default"]
    assert report["verification"]["inputs"] == 1
    assert lines(out / "trials.jsonl") == []
    assert complete(out)


def test_a_plan_makes_the_round_trip(tuned: Tuned) -> None:
    """The tuned plan, put in again, gives the same blocks with the same knobs; an earlier artifact is replaced."""
    out = tuned.home / "replaced"
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps({"format": 1, "sha256": {"model.so": ""}}))
    done = tuned.again("--trials", 0, "--plan", tuned.out / "plan.json", out=out)
    assert done.code == 0, done.err
    assert json.loads((out / "plan.json").read_text()) == json.loads((tuned.out / "plan.json").read_text())
    assert {p.name for p in out.iterdir()} == FILES


@pytest.mark.slow
def test_no_strategy_and_the_baselines(tuned: Tuned) -> None:
    out = tuned.home / "none"
    done = fusetune(
        tuned.home, "tune", tuned.model, "--strategy", "none", "--json", "--db", tuned.db, "--out", out
    )  # fmt: skip
    assert done.code == 0, done.err
    report = done.json
    assert report["trials"]["measured"] == report["trials"]["reused"] == 0
    assert all(len(b["layers"]) == 1 and b["cores"] <= 1 for b in report["blocks"] if b["layers"])
    assert report["latency_ms"]["unoptimised"]["median"] > 0
    assert (report["latency_ms"]["unfused"] is not None) == (report["device"]["cores"] > 1)
    assert report["speedup"]["over_unoptimised"] > 0


def test_open_shapes_and_passes(tuned: Tuned) -> None:
    """A batch that the model leaves open is given; a pass that is switched off does nothing."""
    model, out = conv_net(tuned.home / "open.onnx", batch="N"), tuned.home / "open"
    off = "fold-scale-shift"
    done = fusetune(
        tuned.home, "tune", model, "--shape", "image=2,16,24,24", "--disable-pass", off, "--trials", 0, "--json",
        "--no-baselines", "--db", tuned.db, "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {p["name"]: p["enabled"] for p in done.json["model"]["passes"]}[off] is False
    assert json.loads((out / "manifest.json").read_text())["inputs"][0]["shape"] == [2, 16, 24, 24]
    assert done.json["verification"]["passed"] is True


@pytest.mark.slow
def test_a_real_network(tuned: Tuned) -> None:
    """SqueezeNet from the zoo, with progress for people on stdout."""
    written = fusetune(tuned.home, "zoo", "squeezenet")
    assert written.code == 0, written.err
    done = fusetune(
        tuned.home, "tune", "squeezenet.onnx", "--trials", 0, "--no-baselines", "--db", tuned.db, "--out", "squeezed"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "ONNX Runtime" in done.out
    assert "verified on 3 inputs" in done.out
    assert complete(tuned.home / "squeezed")
    assert Path(tuned.home / "squeezed" / "report.json").stat().st_size > 0
