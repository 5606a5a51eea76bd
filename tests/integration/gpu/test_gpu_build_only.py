"""Building for a GPU that is not here: the artifact, the bundle, and a second round that knows what was measured."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db.store import Store
from service.commands.gpu_trials import GpuTrials
from service.exports.report_html import report_html
from tests.integration.gpu.conftest import Round
from tests.integration.gpu.gpu_models import job
from tests.unit.gpu.gpu_tools import fake_nvcc
from tuner.errors import InternalError, UserError
from tuner.gpu.build_only import BuildOnly
from tuner.measure.device import devices

DEVICE = devices("rtx3090")


def test_the_artifact_says_that_nothing_was_measured(first_round: Round) -> None:
    out, report = first_round.out, first_round.report
    names = {path.name for path in out.iterdir()}
    assert names == {"model.so", "params.bin", "cubins", "manifest.json", "report.json", "trials.jsonl", "README.txt",
                     "bundle", "plan.json"}  # fmt: skip
    assert report == json.loads((out / "report.json").read_text())
    assert report["measured"] is False and report["latency_ms"]["tuned"] is None
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["measured"] is False
    assert manifest["device"]["mcpu"] == "sm_86"
    assert {path.stem for path in (out / "cubins").iterdir()} == set(manifest["cubins"]) != set()


def test_the_report_can_be_read_as_a_page(first_round: Round) -> None:
    page = report_html(first_round.report)
    assert "no latency measured" in page
    assert all(block["function"] in page for block in first_round.report["blocks"])


def test_what_can_be_checked_without_a_gpu_was(first_round: Round) -> None:
    verification = first_round.report["verification"]
    assert verification["passed"] and verification["max_rel_error"] < 1e-4 and verification["on"] == "cpu"
    blocks = first_round.report["blocks"]
    assert all(block["checked_error"] is not None and block["checked_error"] < 1e-4 for block in blocks)
    convolutions = [block for block in blocks if "conv2d" in block["function"]]
    assert convolutions and all(block["threads"] >= 32 for block in convolutions)
    assert any(block["template"] == "metaschedule" for block in convolutions)


def test_the_bundle_holds_candidates_of_every_task_with_what_they_should_compute(first_round: Round) -> None:
    folder = first_round.out / "bundle"
    bundle = json.loads((folder / "bundle.json").read_text())
    assert (bundle["arch"], bundle["device"]["name"]) == ("sm_86", "rtx3090")
    per_task = Counter(candidate["task"] for candidate in bundle["candidates"])
    assert set(per_task) == {task["hash"] for task in bundle["tasks"]}
    assert max(per_task.values()) == 2
    assert first_round.report["ranking"]["bundled"] == len(bundle["candidates"])
    for candidate in bundle["candidates"]:
        assert (folder / candidate["library"]).is_file()
    assert len(list((folder / "kernels").iterdir())) == len(bundle["candidates"])
    assert all((folder / task["expected"]).is_file() for task in bundle["tasks"])
    assert {"measure.py", "cubins.py"} <= {path.name for path in folder.iterdir()}


def test_later_rounds_take_what_was_fastest_and_bundle_what_was_not_measured(
    compiler: None, first_round: Round, tmp_path: Path
) -> None:
    """What was measured comes from a file, then from the database alone. Its times are made up."""
    bundle = json.loads((first_round.out / "bundle" / "bundle.json").read_text())
    slowest_guess: dict[str, Any] = {}
    for candidate in bundle["candidates"]:
        known = slowest_guess.setdefault(candidate["task"], candidate)
        if candidate["predicted"] > known["predicted"]:
            slowest_guess[candidate["task"]] = candidate
    made_up = [
        candidate | {"samples": [1e-6 if slowest_guess[candidate["task"]] is candidate else 5e-6], "failure": None,
                     "max_rel_error": 0.0}
        for candidate in bundle["candidates"]
    ]  # fmt: skip
    results = {key: bundle[key] for key in ("format", "model", "arch")} | {"results": made_up}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results | {"device": {"model": DEVICE.model}}))

    def check(report: Any) -> None:
        assert report["ranking"]["learned_from"] == len(made_up)
        for block in report["blocks"]:
            best = slowest_guess[block["workload"]]
            assert (block["template"], block["knobs"]) == (best["template"], best["knobs"])
            assert block["ms"] == pytest.approx(1e-3)

    with Store.open(f"sqlite:///{tmp_path}/gpu.db") as store:
        kept = GpuTrials(store, DEVICE, "a toolchain")
        report = BuildOnly(job(), first_round.model, DEVICE, tmp_path / "out", [path], store=kept).run()
        check(report)
        assert (report["trials"]["measured"], report["trials"]["reused"]) == (len(made_up), 0)
        lines = (tmp_path / "out" / "trials.jsonl").read_text().splitlines()
        assert len(lines) >= len(made_up)
        again = json.loads((tmp_path / "out" / "bundle" / "bundle.json").read_text())
        assert again["candidates"]
        assert not {c["key"] for c in again["candidates"]} & {c["key"] for c in bundle["candidates"]}

        report = BuildOnly(job(trials=0), first_round.model, DEVICE, tmp_path / "third", [], store=kept).run()
        check(report)
        assert (report["trials"]["measured"], report["trials"]["reused"]) == (0, len(made_up))


def test_without_time_there_is_an_artifact_of_defaults(compiler: None, first_round: Round, tmp_path: Path) -> None:
    report = BuildOnly(job(seconds=0.01), first_round.model, DEVICE, tmp_path / "out").run()
    assert report["measured"] is False and report["verification"]["passed"]
    assert {(block["template"], block["registers"]) for block in report["blocks"]} == {("dlight", None)}
    assert report["ranking"]["bundled"] == 0
    assert (tmp_path / "out" / "model.so").is_file() and any((tmp_path / "out" / "cubins").iterdir())


@pytest.mark.slow
def test_a_budget_of_trials_is_one_of_what_is_to_be_measured(
    compiler: None, first_round: Round, tmp_path: Path
) -> None:
    report = BuildOnly(job(trials=0), first_round.model, DEVICE, tmp_path / "out").run()
    assert report["ranking"]["bundled"] == 0
    assert {block["template"] for block in report["blocks"]} == {"dlight"}


def test_without_a_compiler_nothing_is_written(
    first_round: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.gpu.nvcc._candidates", list)
    with pytest.raises(InternalError, match="No nvcc") as raised:
        BuildOnly(job(), first_round.model, DEVICE, tmp_path / "out").run()
    assert raised.value.code == "no-nvcc"
    assert not (tmp_path / "out").exists()


def test_an_architecture_that_the_compiler_does_not_know(
    first_round: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.gpu.nvcc._candidates", lambda: [fake_nvcc(tmp_path) / "nvcc"])
    with pytest.raises(UserError, match="sm_70"):
        BuildOnly(job(), first_round.model, replace(DEVICE, mcpu="sm_70"), tmp_path / "out").run()
