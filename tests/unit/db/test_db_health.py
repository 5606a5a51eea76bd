"""The health of devices: readings of all jobs in one row, marks that come and go; drifted trials answer nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from db_values import DEVICE, TOOLCHAIN, good, new_job, put, together

from db.store import Store
from service.devices import DeviceBoard
from tuner.errors import InternalError

PLACE = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN}


@dataclass(frozen=True)
class Verdict:
    usual: float | None
    ratio: float
    drifting: bool


def judge(readings: list[float], drifting: bool) -> Verdict:
    """Drifts above 2, and then down to 1."""
    last = readings[-1]
    return Verdict(1.0, last, last > (1.0 if drifting else 2.0))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as store:
        store.devices.put(DEVICE)
        yield store


def note(store: Store, *readings: float, keep: int = 5) -> object:
    return store.health.note(DEVICE.fingerprint, TOOLCHAIN, readings, judge, keep=keep)  # type: ignore[arg-type]


def test_readings_come_together_and_the_oldest_go(store: Store) -> None:
    note(store, 1.0, 1.1)
    assert note(store, 1.2, 1.3, 1.4, 1.5) == store.health.get(DEVICE.fingerprint, TOOLCHAIN)
    found = store.health.get(DEVICE.fingerprint, TOOLCHAIN)
    assert found is not None and list(found.readings) == [1.1, 1.2, 1.3, 1.4, 1.5]
    assert store.health.newest() == {DEVICE.fingerprint: found}
    assert store.health.get(DEVICE.fingerprint, "another") is None


def test_it_drifts_since_the_first_that_said_so_until_one_says_otherwise(store: Store) -> None:
    board = DeviceBoard(store)
    note(store, 1.5)
    assert not board.get("cpu").drifting
    note(store, 3.0)
    first = board.get("cpu").health
    assert first is not None and first.drifting_since == first.updated_at
    note(store, 1.5)  # not well yet
    later = board.get("cpu").health
    assert later is not None and later.drifting_since == first.drifting_since and later.ratio == 1.5
    note(store, 0.9)
    assert not board.get("cpu").drifting


def test_two_who_note_at_once_lose_nothing(store: Store) -> None:
    def some() -> None:
        for _ in range(20):
            note(store, 1.0, keep=100)

    together(some, some)
    found = store.health.get(DEVICE.fingerprint, TOOLCHAIN)
    assert found is not None and len(found.readings) == 40


def test_a_device_that_nobody_put_has_no_health(store: Store) -> None:
    with pytest.raises(InternalError, match="refused"):
        store.health.note("unknown", TOOLCHAIN, [1.0], judge, keep=5)  # type: ignore[arg-type]


def test_what_a_device_measured_while_it_had_drifted_is_its_jobs_alone(store: Store) -> None:
    job = new_job(store)
    drifted, steady = good(1, 1.0, drift=2.0, calibration=3e-5), good(2, 0.8)
    put(store, job, drifted, steady, good(1, 9.0, workload=1, drift=3.0))
    assert store.trials.mine(job)[0] == drifted and drifted.seconds == 0.5
    keys = [drifted.candidate.record_key, good(1, 9.0, workload=1).candidate.record_key]
    assert store.records.best(keys, **PLACE)[keys[0]].seconds == 0.8
    assert [found.record.seconds for found in store.records.search().items] == [0.8]
    assert store.trials.of_records(keys, **PLACE) == [steady]
    assert store.trials.known(keys, **PLACE) == {steady.candidate.key}
    assert store.trials.samples(**PLACE) == [steady]
    assert store.records.known_questions([[keys[0]], [keys[1]]], **PLACE) == 1
