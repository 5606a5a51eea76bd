"""Jobs from queue to result with real drivers: cancel, pause, crashes, restarts; nothing lost, nothing doubled."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dispatch_tools import House, check_books, drivers, ended, house, leftovers

from tuner.types import JobState

pytestmark = pytest.mark.alone


@pytest.fixture
def server(tmp_path: Path) -> Iterator[House]:
    with house(f"sqlite:///{tmp_path}/f.db", tmp_path / "data") as made:
        yield made


def test_a_job_succeeds_and_its_answer_is_known_from_then_on(server: House) -> None:
    model = server.upload()
    job = server.wait(server.submit(model), ended)
    assert job.state is JobState.SUCCEEDED, job.reason
    assert job.report is not None
    assert job.report["model"]["name"] == "tiny0"
    assert job.best_seconds == pytest.approx(job.report["latency_ms"]["tuned"]["median"] / 1e3)
    assert job.onnxruntime_seconds is not None
    assert job.curve and job.elapsed > 0
    check_books(server.store, job.id)

    files = server.store.jobs.files(job.id)
    assert set(files) == {"artifact.zip", "plan.json", "report.json", "metaschedule.zip", "graph.json"}
    with server.blobs.open(files["artifact.zip"].sha256) as file, zipfile.ZipFile(io.BytesIO(file.read())) as archive:
        names = {Path(n).name for n in archive.namelist()}
        assert {n.split("/")[0] for n in archive.namelist()} == {"tiny0.fusetune"}
    assert {"model.so", "params.bin", "manifest.json", "plan.json", "report.json", "trials.jsonl"} <= names
    with server.blobs.open(files["report.json"].sha256) as file:
        assert json.load(file) == job.report

    again, created = server.jobs.submit(job.spec)
    assert created
    assert (again.state, again.reused, again.answered_by) == (JobState.SUCCEEDED, True, job.id)
    assert server.store.jobs.files(again.id).keys() == files.keys()


@pytest.mark.slow
def test_the_same_kernels_with_other_weights_are_known(server: House) -> None:
    job = server.wait(server.submit(server.upload()), ended)
    twin = server.wait(server.submit(server.upload(seed=1)), ended)
    assert twin.state is JobState.SUCCEEDED
    assert not twin.reused
    assert twin.reused_trials == job.measured


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_cancel_and_pause_kill_the_work_within_two_seconds(server: House, action: str) -> None:
    job = server.submit(server.upload(), trials=200)
    server.wait(job, lambda j: j.measured >= 2)
    pid = server.driver(job)
    began = time.monotonic()
    server.jobs.act(job.id, action)  # type: ignore[arg-type]
    state = {"cancel": JobState.CANCELLED, "pause": JobState.PAUSED}[action]
    server.wait(job, lambda j: j.state is state, limit=10)
    while leftovers(server.settings.data, but="spare-"):  # the kernel takes a moment to clear away what it killed
        assert time.monotonic() - began < 2.0
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
    assert server.jobs.act(job.id, action).state is state  # type: ignore[arg-type]
    assert server.store.turns.current(server.device.fingerprint) is None


@pytest.mark.slow  # the dashboard pauses one and goes on, too
def test_a_paused_job_goes_on_where_it_was(server: House) -> None:
    job = server.submit(server.upload(), trials=14)
    server.wait(job, lambda j: j.measured >= 3)
    server.jobs.act(job.id, "pause")
    paused = server.wait(job, lambda j: j.state is JobState.PAUSED)
    before = [t.candidate.key for t in server.store.trials.mine(job.id)]
    time.sleep(2 * server.settings.lease)
    assert server.jobs.get(job.id).state is JobState.PAUSED
    server.jobs.act(job.id, "resume")
    done = server.wait(job, ended)
    assert done.state is JobState.SUCCEEDED, done.reason
    assert done.elapsed > paused.elapsed > 0
    assert [t.candidate.key for t in server.store.trials.mine(job.id)][: len(before)] == before
    assert done.measured <= 14
    check_books(server.store, job.id)


@pytest.mark.slow  # ten random kills are of drivers, too
def test_a_killed_driver_is_replaced_and_repeats_nothing(server: House) -> None:
    job = server.submit(server.upload(), trials=14)
    for trials in (1, 4):
        server.wait(job, lambda j, n=trials: j.measured >= n)  # type: ignore[misc]
        os.kill(server.driver(job), signal.SIGKILL)
        server.wait(job, lambda j: j.fence > 1)
    done = server.wait(job, ended)
    assert done.state is JobState.SUCCEEDED, done.reason
    assert [a.outcome for a in server.store.queue.attempts(job.id)] == ["crashed", "crashed", "succeeded"]
    check_books(server.store, job.id)


@pytest.mark.slow  # the ten random kills are about this, too
def test_a_stopped_server_hands_its_job_to_the_next(tmp_path: Path) -> None:
    url, data = f"sqlite:///{tmp_path}/f.db", tmp_path / "data"
    with house(url, data) as first:
        job = first.submit(first.upload(), trials=12)
        first.wait(job, lambda j: j.measured >= 2)
        first.dispatcher.stop()
        assert first.jobs.get(job.id).state is JobState.QUEUED
        assert drivers_of(data) == []
    with house(url, data) as second:
        done = second.wait(job, ended)
        assert done.state is JobState.SUCCEEDED, done.reason
        check_books(second.store, job.id)
    assert not any((data / "work").iterdir())


@pytest.mark.slow
def test_two_servers_on_one_database_share_the_queue(tmp_path: Path) -> None:
    url, data = f"sqlite:///{tmp_path}/f.db", tmp_path / "data"
    with house(url, data) as first, house(url, data) as second:
        model = first.upload()
        jobs = [first.submit(model, trials=3, seed=s, fresh=True) for s in range(3)]
        for job in jobs:
            assert second.wait(job, ended).state is JobState.SUCCEEDED
            assert len(first.store.queue.attempts(job.id)) == 1  # nobody took it twice
            check_books(first.store, job.id)


@pytest.mark.slow
def test_a_driver_that_dies_at_once_fails_the_job_with_its_last_words(
    server: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = server.upload()
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no such engine' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("service.dispatch.dispatcher.sys", _Sys(str(broken)))
    for pid, output in drivers():  # the one that was started ahead works
        if output.startswith(str(server.settings.data.absolute())):
            os.kill(pid, signal.SIGKILL)
    job = server.wait(server.submit(model), ended)
    assert job.state is JobState.FAILED
    assert job.reason is not None
    assert "exit code 3" in job.reason and "5 times" in job.reason
    assert "no such engine" in (server.store.queue.attempts(job.id)[-1].stderr or "")

    monkeypatch.undo()
    server.jobs.act(job.id, "retry")
    assert server.wait(job, lambda j: j.state is JobState.SUCCEEDED).reason is None


def test_a_driver_inherits_none_of_the_servers_secrets(
    server: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = server.upload(), tmp_path / "seen"
    curious = tmp_path / "python"
    curious.write_text(f'#!/bin/sh\nread line || exit 3\n(env; echo "$line") >>{seen}\nexit 3\n')
    curious.chmod(0o755)
    monkeypatch.setattr("service.dispatch.dispatcher.sys", _Sys(str(curious)))
    kill_spare(server)
    for name in ("FUSETUNE_DB", "FUSETUNE_DB_PASSWORD", "FUSETUNE_TOKEN"):
        monkeypatch.setenv(name, "hunter2")
    server.wait(server.submit(model), ended)
    text = seen.read_text()
    assert "PYTHONPATH=" in text and f"{tmp_path}/f.db" in text
    assert "FUSETUNE_" not in text and "hunter2" not in text


@pytest.mark.slow
def test_a_full_store_pauses_the_job_and_says_so(tmp_path: Path) -> None:
    url, data = f"sqlite:///{tmp_path}/f.db", tmp_path / "data"
    with house(url, data, quota=60_000) as full:  # the model fits, its artifact does not
        job = full.submit(full.upload(), trials=3)
        paused = full.wait(job, lambda j: j.state is JobState.PAUSED)
        assert paused.reason is not None
        assert "resume" in paused.reason
    with house(url, data) as roomy:
        roomy.jobs.act(job.id, "resume")
        done = roomy.wait(job, ended)
        assert done.state is JobState.SUCCEEDED
        check_books(roomy.store, job.id)


def test_a_deleted_file_fails_the_job_clearly(server: House) -> None:
    model = server.upload()
    server.blobs.path(model).unlink()
    job = server.wait(server.submit(model), ended)
    assert job.state is JobState.FAILED
    assert job.reason


def drivers_of(data: Path) -> list[int]:
    return [pid for pid, work in drivers() if work.startswith(str(data))]


def kill_spare(server: House) -> None:
    """Kill the driver that waits for the next job, which then has to start one of its own."""
    (spare,) = drivers_of(server.settings.data)
    os.kill(spare, signal.SIGKILL)
    while drivers_of(server.settings.data):
        time.sleep(0.01)


class _Sys:
    """The module sys with another interpreter."""

    def __init__(self, executable: str) -> None:
        self.executable = executable

    def __getattr__(self, name: str) -> object:
        return getattr(sys, name)


@pytest.mark.slow
def test_a_resumed_job_never_looks_worse_than_it_was(server: House) -> None:
    job = server.submit(server.upload(), trials=14)
    server.wait(job, lambda j: j.measured >= 4 and j.best_seconds is not None)
    server.jobs.act(job.id, "pause")
    paused = server.wait(job, lambda j: j.state is JobState.PAUSED)
    server.jobs.act(job.id, "resume")
    server.wait(job, lambda j: j.stage == "import" and j.fence > paused.fence)
    server.wait(job, lambda j: j.stage in {"plan", "build"})
    server.jobs.act(job.id, "cancel")
    after = server.wait(job, lambda j: j.state is JobState.CANCELLED)
    assert after.measured == paused.measured
    assert after.best_seconds is not None
    assert after.onnxruntime_seconds is not None


@pytest.mark.slow
def test_a_server_leaves_the_folders_of_others_alone(tmp_path: Path) -> None:
    url, data = f"sqlite:///{tmp_path}/f.db", tmp_path / "data"
    with house(url, data) as first:
        job = first.submit(first.upload(), trials=4)
        first.driver(job)
        with house(url, data):  # starts, sweeps, ends
            pass
        done = first.wait(job, ended)
        assert done.state is JobState.SUCCEEDED, done.reason
        assert [a.outcome for a in first.store.queue.attempts(job.id)] == ["succeeded"]


def test_a_full_disk_pauses_what_it_cannot_start(server: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = server.upload()
    monkeypatch.setattr("service.dispatch.dispatcher.subprocess.Popen", full)
    kill_spare(server)
    job = server.submit(model)
    paused = server.wait(job, lambda j: j.state is JobState.PAUSED, limit=10)
    assert paused.reason is not None
    assert "disk is full" in paused.reason
    assert paused.attempts == 0


@pytest.mark.slow
def test_a_machine_without_room_for_a_process_fails_no_job(server: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    model = server.upload()
    monkeypatch.setattr("service.dispatch.dispatcher.subprocess.Popen", refused)
    kill_spare(server)
    job = server.submit(model, trials=2)
    waiting = server.wait(job, lambda j: j.reason is not None, limit=10)
    assert (waiting.state, waiting.attempts) == (JobState.QUEUED, 0)
    monkeypatch.undo()
    assert server.wait(job, ended).state is JobState.SUCCEEDED
