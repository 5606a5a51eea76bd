"""Turns on devices: one measures at a time, and nobody keeps a device for ever."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from db_values import DEVICE, new_job, together
from sqlalchemy import text

from db.queue import Claim
from db.store import Store
from tuner.errors import InternalError
from tuner.types import JobState

HERE = DEVICE.fingerprint


def started(store: Store) -> Claim:
    return store.queue.start(new_job(store), "me", 60)


def renewed(store: Store, claim: Claim, seconds: float, what: str | None = None) -> bool:
    """Whether the claim has its turn still, which it does as it renews its lease."""
    return store.queue.beat(claim, seconds, elapsed=1.0, device=HERE, what=what).kept


def test_jobs_take_turns_on_a_device(store: Store) -> None:
    one, two = started(store), started(store)
    assert store.turns.current(HERE) is None
    assert store.turns.take(HERE, one, 60, "conv2d")
    assert not store.turns.take(HERE, two, 60)
    turn = store.turns.current(HERE)
    assert turn and (turn.device, turn.job, turn.fence, turn.what) == (HERE, one.job, one.fence, "conv2d")
    assert 59 < (turn.expires_at - turn.taken_at).total_seconds() < 61
    assert renewed(store, one, 600, "dense")
    assert not renewed(store, two, 600)
    longer = store.turns.current(HERE)
    assert longer and longer.expires_at > turn.expires_at and longer.what == "dense"
    assert store.turns.take(HERE, one, 60)  # what one has one may take
    store.turns.release(HERE, two)
    assert store.turns.current(HERE) is not None
    store.turns.release(HERE, one)
    assert store.turns.current(HERE) is None
    assert store.turns.take(HERE, two, 60)


def test_devices_have_turns_of_their_own(store: Store) -> None:
    other = store.devices.put(replace(DEVICE, model="Other CPU"))
    one, two = started(store), started(store)
    assert store.turns.take(HERE, one, 60) and store.turns.take(other, two, 60)
    with pytest.raises(InternalError) as caught:
        store.turns.take("unknown", one, 60)
    assert caught.value.code == "database-invariant"


def test_a_turn_that_ran_out_goes_to_who_asks(store: Store) -> None:
    one, two = started(store), started(store)
    assert store.turns.take(HERE, one, -1)
    assert store.turns.current(HERE) is None
    assert renewed(store, one, -1)  # nobody has asked yet
    assert store.turns.take(HERE, two, 60)
    assert not renewed(store, one, 60)
    assert not store.turns.take(HERE, one, 60)


def test_a_job_that_ends_gives_its_device_back(store: Store) -> None:
    ends = (
        lambda held: store.queue.finish(held, JobState.SUCCEEDED),
        lambda held: store.queue.release(held),
        lambda held: store.queue.crashed(held, "died"),
    )
    for end in ends:
        held = started(store)
        assert store.turns.take(HERE, held, 60)
        end(held)
        assert store.turns.current(HERE) is None


def test_a_silent_driver_keeps_the_device_until_its_turn_runs_out(store: Store) -> None:
    """It may still be measuring; only its job is given to another."""
    silent = store.queue.start(new_job(store), "me", -1)
    assert store.turns.take(HERE, silent, 60)
    store.queue.reclaim()
    again = store.queue.start(silent.job, "me", 60)
    assert not store.turns.take(HERE, again, 60)
    with store.database.write() as connection:
        connection.execute(text("UPDATE turns SET expires_at = expires_at - 61"))
    assert store.turns.take(HERE, again, 60)


def test_of_many_that_ask_at_once_one_gets_the_turn(store: Store) -> None:
    claims = [started(store) for _ in range(6)]
    inside: list[str] = []
    worst: list[int] = []

    def work(held: Claim) -> None:
        turns = 0
        while turns < 3:
            if store.turns.take(HERE, held, 60):
                inside.append(held.job)
                worst.append(len(inside))
                inside.remove(held.job)
                store.turns.release(HERE, held)
                turns += 1

    together(*(partial(work, held) for held in claims))
    assert worst == [1] * 18
