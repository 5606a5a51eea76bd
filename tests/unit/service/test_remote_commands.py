"""The commands that talk to a server, as a user types them, against the real application."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_tools import DEVICE, TOOLCHAIN, Running, running, tiny_model

from service.cli import main
from tuner.types import Candidate, Failure, FailureKind, JobState, Trial, digest

REPORT = {
    "model": {"name": "net"}, "device": {"name": "cpu", "model": "Test CPU", "cores": 2}, "precision": "fp32",
    "latency_ms": {"tuned": {"median": 1.5, "min": 1.4}, "onnxruntime": {"median": 3.0, "min": 2.9},
                   "unoptimised": None, "unfused": None, "default": None},
    "speedup": {"over_onnxruntime": 2.0}, "blocks": [], "trials": {"measured": 9, "failed": 1, "reused": 0},
    "seconds": {"total": 12.0}, "verification": {"inputs": 3, "max_rel_error": 1e-7, "limit": 1e-4}, "reused": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("served")) as started:
        yield started


@pytest.fixture(autouse=True)
def environment(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_SERVER", server.url)
    monkeypatch.setenv("FUSETUNE_TOKEN", server.token)
    monkeypatch.setenv("COLUMNS", "200")


def finished(server: Running, state: JobState = JobState.SUCCEEDED, reason: str | None = None) -> str:
    id = server.job()
    claim = server.store.queue.start(id, "test", 60)
    for number in range(3):
        candidate = Candidate({"layers": []}, digest("w"), {"i0": "plain"}, "conv2d", 1, {"ob": number}, 1)
        failure = Failure(FailureKind.CRASH, "it died") if number == 0 else None
        trial = Trial(candidate, samples=() if failure else (number / 1e3,), failure=failure)
        server.store.trials.add(id, trial, device=DEVICE.fingerprint, toolchain=TOOLCHAIN)
    server.store.queue.progress(
        claim, event=True, stage="search", message="looking", measured=3, failed=1, best_seconds=0.0015, done=3.0,
        total=10.0, unit="trials", elapsed=4.0,
    )  # fmt: skip
    blob = server.blobs.put(io.BytesIO(b"the artifact"))
    done = state is JobState.SUCCEEDED
    files = {"artifact.zip": (blob.sha256, blob.size, "application/zip")} if done else {}
    server.store.queue.finish(claim, state, reason=reason, report=REPORT if done else None, files=files)
    return id


def test_submit_queues_a_job(server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(tmp_path / "mine.onnx", width=11)
    options = ["--trials", "5", "--cores", "1,2", "--priority", "3", "--notes", "[bold]hello", "--seed", "9"]
    assert main(["submit", str(model), *options, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    job = server.store.jobs.get(shown["id"])
    assert job is not None
    assert job.state is JobState.QUEUED
    assert (job.spec.budget.trials, job.spec.budget.seconds, job.spec.cores, job.spec.seed) == (5, None, (1, 2), 9)
    assert job.spec.model == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (job.priority, job.notes, job.model_name) == (3, "[bold]hello", "mine")
    assert main(["submit", str(model), "--trials", "5"]) == 0
    assert "fusetune watch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategy", "magic"], "magic"),
        (["--device", "gpu9"], "gpu9"),
        (["--cores", "64"], "64 cores"),
        (["--plan", "absent.json"], "absent.json"),
    ],
)
def test_a_job_that_cannot_be_is_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(tiny_model(tmp_path / "m.onnx")), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_status_lists_jobs_and_shows_one(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    done, waiting = finished(server), server.job()
    assert main(["status"]) == 0
    table = capsys.readouterr().out
    assert done in table
    assert waiting in table
    assert main(["status", "--state", "SUCCEEDED", "--json", "--limit", "200"]) == 0
    listed = [job["id"] for job in json.loads(capsys.readouterr().out)["items"]]
    assert done in listed
    assert waiting not in listed
    assert main(["status", done]) == 0
    shown = capsys.readouterr().out
    assert "SUCCEEDED" in shown
    assert "best 1.500 ms" in shown
    claim = server.store.queue.start(waiting, "test", 60)
    server.store.queue.progress(claim, stage="search", message="looking", done=3.0, total=10.0, unit="trials")
    assert main(["status", waiting]) == 0
    assert "3 of 10 trials" in capsys.readouterr().out
    assert main(["status", waiting, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "RUNNING"


def test_watch_ends_with_the_closing_table(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    id = finished(server)
    assert main(["watch", id]) == 0
    shown = capsys.readouterr().out
    assert "ONNX Runtime" in shown
    assert "2.00x" in shown
    assert f"fusetune download {id}" in shown
    assert main(["watch", id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == REPORT


def test_watch_fails_with_the_job_and_says_why(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    id = finished(server, JobState.FAILED, "the model [red]melted\x1b[2J")
    assert main(["watch", id]) == 1
    shown = capsys.readouterr().out
    assert "the model [red]melted [2J" in shown


def test_actions(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    id = server.job()
    for action, state in (("pause", "PAUSED"), ("resume", "QUEUED"), ("cancel", "CANCELLED"), ("retry", "QUEUED")):
        assert main([action, id]) == 0
        assert f"Job {id} {state}" in capsys.readouterr().out
    server.store.queue.start(id, "test", 60)
    assert main(["pause", id]) == 0
    assert "pause is on its way" in capsys.readouterr().out
    assert main(["cancel", id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "CANCELLING"
    assert main(["resume", id]) == 2
    assert "CANCELLING" in capsys.readouterr().err
    assert main(["cancel", "0" * 16]) == 2


def test_download(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    id = finished(server)
    monkeypatch.chdir(tmp_path)
    assert main(["download", id]) == 0
    here = Path(capsys.readouterr().out.strip())
    assert here.read_bytes() == b"the artifact"
    assert main(["download", id, "--format", "jsonl", "--out", "log.jsonl"]) == 0
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3
    assert main(["download", id, "--what", "report", "--out", "report.json"]) == 0
    assert json.loads((tmp_path / "report.json").read_text()) == REPORT
    assert main(["download", id, "--what", "plan"]) == 2
    assert main(["download", id, "--what", "plan", "--format", "csv"]) == 2
    capsys.readouterr()


def test_the_token_stands_in_a_file_or_the_environment(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FUSETUNE_TOKEN")
    assert main(["status"]) == 2
    assert server.token not in capsys.readouterr().err
    (tmp_path / "token").write_text(f"{server.token}\n")
    assert main(["status", "--token-file", str(tmp_path / "token")]) == 0
    assert main(["status", "--token-file", str(tmp_path / "absent")]) == 2
    with pytest.raises(SystemExit):
        main(["status", "--token", server.token])


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--server", "http://127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:1 cannot be reached" in said
    assert "Traceback" not in said
    assert main(["status", "--server", "nonsense"]) == 2


def test_ctrl_c_leaves_the_job_alone(server: Running) -> None:
    id = server.job()
    command = [sys.executable, "-m", "service.cli", "watch", id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert "QUEUED" in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
        assert f"The job goes on. Watch it again: fusetune watch {id}" in child.stderr.read()
    job = server.store.jobs.get(id)
    assert job is not None
    assert job.state is JobState.QUEUED
