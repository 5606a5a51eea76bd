"""Disks that are full: of the database, of logs, of the folder where kernels are built."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event, text

from db.blobs import Blobs
from db.queue import Claim
from db.store import Store
from service.dispatch.dispatcher import Dispatcher, _Driver
from service.dispatch.driver import NO_ROOM, Assignment, _drive
from service.settings import Settings
from tests.api_server import DEVICE, TOOLCHAIN, good
from tuner.errors import InternalError
from tuner.measure.process import Outcome
from tuner.measure.worker import Worker
from tuner.types import Failure, FailureKind, JobSpec, JobState


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/fusetune.db") as made:
        made.devices.put(DEVICE)
        made.devices.measured(DEVICE.fingerprint, peak_flops=1e12, bandwidth=1e10)
        yield made


@contextmanager
def full(store: Store, pages: int) -> Iterator[None]:
    """The file may grow by so many pages; then SQLite says what it says on a full disk."""
    with store.database.read() as connection:
        now = connection.execute(text("PRAGMA page_count")).scalar_one()

    def limit(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {now + pages}")

    store.database.close()  # connections keep their limit
    event.listen(store.database.engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(store.database.engine, "connect", limit)
        store.database.close()


def test_a_full_database_pauses_the_job_once_that_can_be_written_down(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Measuring:
        """A session that stores trials for as long as it goes."""

        runner: Any = None

        def __init__(self, spec: JobSpec, model: Path, device: object, out: Path, books: Any, **_: object) -> None:
            self.books = books

        def run(self) -> None:
            with filling(store, job):
                for number in range(10_000):
                    self.books.add(good(number))

    monkeypatch.setitem(sys.modules, "tuner.session", SimpleNamespace(Session=Measuring))  # the real one takes seconds
    monkeypatch.setattr("tuner.plan.describe.describe", lambda _: "")
    blobs = Blobs(tmp_path / "blobs", store.database, None)
    model = blobs.put([b"a model"]).sha256
    job = store.jobs.submit(JobSpec(model), DEVICE.fingerprint, TOOLCHAIN)[0].id
    claim = store.queue.start(job, "server", 60.0)
    work = tmp_path / "work"
    work.mkdir()
    url, folder = str(store.database.url), str(tmp_path / "blobs")
    assignment = Assignment(url, folder, None, str(work), job, claim.fence, "server", 60.0, DEVICE.to_json())
    dispatcher = Dispatcher(store, blobs, Settings(db=url, data=tmp_path), {"cpu": DEVICE})
    dispatcher._drivers.append(_ended(claim, NO_ROOM, work))
    with full(store, pages=40):
        assert _drive(assignment, store) == NO_ROOM
        kept = store.trials.count(job).measured
        assert kept > 0
        with pytest.raises(InternalError, match="is full") as error:
            dispatcher._reap()
        assert error.value.code == "disk-full"
        assert store.trials.count(job).measured == kept
        with store.database.read() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    said = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(said) == 1 and "Make room, then resume the job" in said[0].getMessage()
    dispatcher._reap()
    paused = store.jobs.get(job)
    assert paused is not None
    assert (paused.state, paused.attempts) == (JobState.PAUSED, 0)
    assert paused.reason is not None and "Make room, then resume" in paused.reason
    assert dispatcher.running == ()
    assert store.jobs.request(job, "resume").state is JobState.QUEUED
    assert store.trials.count(job).measured == len(store.trials.mine(job)) == kept


@contextmanager
def filling(store: Store, job: str) -> Iterator[None]:
    """When a page is missing, fill the rest of the last ones as well, so that not even a word finds room."""
    try:
        yield
    except InternalError:
        for size in (200, 100, 50, 20, 5, 0):
            with suppress(InternalError):
                while True:
                    store.events.add(job, "", {"": "x" * size})
        raise


def _ended(claim: Claim, code: int, work: Path) -> _Driver:
    process: Any = SimpleNamespace(poll=lambda: code, stdin=None)
    return _Driver(claim, DEVICE.fingerprint, process, work, 0.0, 0.0)


def test_a_log_that_nobody_can_write_stops_nothing_and_says_nothing() -> None:
    program = """
import logging, sys
from service.logs import set_up
for json_lines in (True, False):
    set_up(json_lines=json_lines, stream=open("/dev/full", "w", buffering=1))
    logging.getLogger("service").error("a line that finds no room")
print("done")
import os; sys.stdout.flush(); os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("where", ["message", "stderr"])
def test_a_kernel_that_finds_no_room_is_no_failed_trial(where: str) -> None:
    words = {"message": "the linker failed", "stderr": ""} | {where: "ld: final link failed: No space left on device"}
    worker = Worker("build", lambda _: _Child(Failure(FailureKind.BUILD, words["message"], words["stderr"])))  # type: ignore[arg-type,return-value]
    worker.ensure()
    with pytest.raises(InternalError, match="The disk is full") as error:
        worker.poll()
    assert error.value.code == "disk-full"
    assert worker.child is None


class _Child:
    """A child that has failed in this way."""

    busy = ready = True

    def __init__(self, failure: Failure) -> None:
        self._failure = failure

    def collect(self) -> Outcome:
        return Outcome(None, self._failure, 0.1)

    def dispose(self) -> None:
        pass
