"""Which jobs a dispatcher takes from silent drivers, and which not, whatever clocks do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from db.blobs import Blobs
from db.queue import Claim
from db.store import Store
from service.dispatch.dispatcher import Dispatcher
from service.settings import Settings
from tests.api_server import DEVICE, TOOLCHAIN
from tuner.clock import Clock
from tuner.types import JobSpec, JobState

LEASE = 60.0  # seconds


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/fusetune.db") as made:
        made.devices.put(DEVICE)
        yield made


def started(store: Store) -> Claim:
    return store.queue.start(store.jobs.submit(JobSpec("0" * 64), DEVICE.fingerprint, TOOLCHAIN)[0].id, "old", LEASE)


def jump(store: Store, seconds: float) -> None:
    """Have the database's clock be set: leases were given by what it said before."""
    with store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET lease_until = lease_until - :jump"), {"jump": seconds})


@pytest.mark.parametrize("hours", [3, -3])
def test_a_clock_that_jumps_takes_no_job_from_a_living_driver_and_every_job_from_a_dead_one(
    store: Store, tmp_path: Path, hours: int
) -> None:
    alive, dead = started(store), started(store)
    blobs = Blobs(tmp_path / "blobs", store.database, None)
    dispatcher = Dispatcher(store, blobs, Settings(db=str(store.database.url), data=tmp_path), {"cpu": DEVICE})
    jump(store, 3600.0 * hours)
    states = []
    for _ in range(3):
        dispatcher._reclaim()
        states.append([job.state for job in map(store.jobs.get, (alive.job, dead.job)) if job is not None])
        store.queue.renew(alive, LEASE)  # as its heartbeat does, several times between two looks
    running, queued = JobState.RUNNING, JobState.QUEUED
    assert states == [[running, running], [running, queued], [running, queued]]
    assert store.queue.attempts(alive.job)[-1].outcome is None


def test_the_time_worked_does_not_follow_a_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(10.0)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert 10.0 <= clock.seconds < 11.0
    monkeypatch.setattr("time.time", lambda: 0.0)
    with clock.stopped():
        assert 10.0 <= clock.seconds < 11.0
        with clock.stopped():  # a device is waited for while its peak is measured
            halted = clock.seconds
        time.sleep(0.02)
        assert clock.seconds == halted
    assert clock.seconds < 11.0
