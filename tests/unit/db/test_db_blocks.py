"""The best time of each block that a device measured: what cost models learn from."""

from __future__ import annotations

import time
from dataclasses import replace

from db_values import DEVICE, TOOLCHAIN, bad, candidate, good, new_job, put

from db.store import Store
from tuner.types import FailureKind, JobState, Purpose, Trial


def ended(store: Store, *trials: Trial) -> list[int]:
    job = new_job(store, seed=time.monotonic_ns() % 2**31)
    ids = put(store, job, *trials)
    store.jobs.request(job, "cancel")
    assert store.jobs.get(job).state is JobState.CANCELLED  # type: ignore[union-attr]
    return ids


def newest(store: Store, limit: int = 100, **place: str) -> list[tuple[int, float, float, int]]:
    found = store.blocks.newest(
        place.get("device", DEVICE.fingerprint), place.get("toolchain", TOOLCHAIN), limit,
        precision=place.get("precision", "fp32"),
    )  # fmt: skip
    return [(each.trial, each.first, each.best, each.tried) for each in found]


def test_each_question_comes_once_with_its_first_and_its_best_time(store: Store) -> None:
    ids = ended(store, good(1, 4e-3), good(2, 3e-3, 5e-3), good(3, 2e-3), good(9, 7e-3, workload=1))
    assert newest(store) == [(ids[0], 4e-3, 2e-3, 3), (ids[3], 7e-3, 7e-3, 1)]
    first = store.blocks.newest(DEVICE.fingerprint, TOOLCHAIN, 1_000)[0]
    asked = candidate()
    assert (first.workload, first.workload_hash) == (asked.workload, asked.workload_hash)
    assert (first.layouts, first.template, first.cores) == (asked.layouts, "conv2d", 1)
    assert (first.residency, first.purpose) == ("dram", Purpose.SEARCH)


def test_failures_and_whole_plans_teach_nothing(store: Store) -> None:
    ids = ended(
        store, bad(1, FailureKind.CRASH), good(2, 3e-3), bad(1, FailureKind.WRONG, workload=1),
        replace(good(1, 9.0, workload=2), purpose=Purpose.PLAN),
    )  # fmt: skip
    assert newest(store) == [(ids[1], 3e-3, 3e-3, 1)]


def test_what_an_unfinished_job_began_is_left_out(store: Store) -> None:
    known = ended(store, good(1, 4e-3))
    put(store, new_job(store, seed=5), good(1, 1e-3, workload=1), good(2, 2e-3))
    assert newest(store) == [(known[0], 4e-3, 2e-3, 2)]
    free = put(store, None, good(1, 8e-3, workload=2))
    assert [found[0] for found in newest(store)] == [*known, *free]


def test_the_newest_are_kept_in_the_order_of_their_first_trials(store: Store) -> None:
    ids = ended(store, *[good(1, 1e-3, workload=n) for n in range(5)], good(2, 1e-3, workload=1))
    assert [found[0] for found in newest(store, 3)] == [ids[1], ids[3], ids[4]]


def test_places_and_precisions_are_told_apart(store: Store) -> None:
    ended(store, good(1, 4e-3))
    assert (
        newest(store, toolchain="another") == newest(store, device="another") == newest(store, precision="int8") == []
    )
