"""Searching records: filters, pages, where each came from; and how many questions are answered already."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from statistics import median

import pytest
from db_values import DEVICE, TOOLCHAIN, bad, candidate, good, new_job, put
from sqlalchemy import text

from db.store import Store
from tuner.errors import UserError
from tuner.types import FailureKind, Trial

PLACE = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN}
OTHER = replace(DEVICE, name="gpu", model="Other")


def seconds(store: Store, **filters: object) -> list[float]:
    return [found.record.seconds for found in store.records.search(**filters).items]  # type: ignore[arg-type]


def test_records_measured_last_come_first(store: Store) -> None:
    put(store, None, good(1, 1.0), good(2, 0.5), good(1, 2.0, workload=1), good(1, 3.0, workload=2))
    assert seconds(store) == [3.0, 2.0, 0.5]
    put(store, None, good(3, 0.75))
    assert seconds(store) == [0.5, 3.0, 2.0]


def test_a_record_says_where_it_comes_from(store: Store) -> None:
    job, later = new_job(store), new_job(store)
    options = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN}
    first = store.trials.add(job, good(1, 1.0), summary="conv+relu", **options)
    put(store, later, good(1, 3.0), good(2, 4.0))
    found = store.records.search().items[0]
    stored = store.trials.get(first)
    assert stored is not None
    assert (found.trial, found.job, found.found_at) == (first, job, stored.created_at)
    assert (found.summary, found.device_name) == ("conv+relu", "cpu")
    assert (found.record.seconds, found.record.samples, found.record.candidate) == (2.0, 2, candidate(1))
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM jobs"))
    assert store.records.search().items == [replace(found, job=None)]


def test_searching_by_workload_device_and_precision(store: Store) -> None:
    half = Trial(replace(candidate(1, 5), precision="fp16"), samples=(5.0,), max_rel_error=0.0)
    put(store, None, good(1, 1.0), good(1, 2.0, workload=1), half)
    store.devices.put(OTHER)
    store.trials.add(None, good(1, 9.0), device=OTHER.fingerprint, toolchain=TOOLCHAIN)
    hash = candidate().workload_hash
    assert seconds(store, workload_hash=hash) == seconds(store, workload_hash=hash[:12].upper()) == [9.0, 1.0]
    assert seconds(store, words="a\0\udc80") == seconds(store, device="\udc80", precision="\0") == []
    assert seconds(store, workload_hash="x\0") == seconds(store, workload_hash="")[4:] == []
    assert seconds(store, device="gpu") == seconds(store, device=OTHER.fingerprint) == [9.0]
    assert seconds(store, device="cpu", workload_hash=hash) == [1.0]
    assert seconds(store, device="none") == []
    assert seconds(store, precision="fp16") == [5.0]
    assert seconds(store, precision="fp32", device="cpu") == [2.0, 1.0]


def test_the_record_is_the_same_however_many_trials_a_question_has(store: Store) -> None:
    """Against the definition, on questions with many candidates, some wrong, unverified, or measured again."""
    dice = random.Random(11)
    made: dict[int, list[Trial]] = {}
    for workload in range(12):
        made[workload] = []
        for _ in range(dice.choice([3, 30, 60])):
            number = dice.randrange(40)
            if dice.random() < 0.15:
                made[workload].append(bad(number, dice.choice([FailureKind.WRONG, FailureKind.CRASH]), workload))
                continue
            times = [dice.randrange(1, 30) / 8 for _ in range(dice.randrange(1, 5))]
            error = None if dice.random() < 0.4 else 1e-6
            made[workload].append(good(number, *times, workload=workload, error=error))
        put(store, None, *made[workload])
    elsewhere = {"device": DEVICE.fingerprint, "toolchain": "other"}
    store.trials.add(None, bad(made[0][0].candidate.knobs["reg_n"], FailureKind.WRONG), **elsewhere)
    found = store.records.best([candidate(workload=workload).record_key for workload in made], **PLACE)
    for workload, tried in made.items():
        by_candidate: dict[str, list[Trial]] = defaultdict(list)
        for trial in tried:
            by_candidate[trial.candidate.key].append(trial)
        times = [
            median(sample for trial in group for sample in trial.samples)
            for group in by_candidate.values()
            if any(trial.samples and trial.max_rel_error is not None for trial in group)
            and not any(trial.failure and trial.failure.kind is FailureKind.WRONG for trial in group)
        ]
        record = found.get(candidate(workload=workload).record_key)
        assert (None if record is None else record.seconds) == min(times, default=None)


@pytest.mark.parametrize("limit", [1, 20, 70])
def test_walking_through_the_pages_meets_every_record_once(store: Store, limit: int) -> None:
    # Two thirds of the questions have no verified answer, in long runs of them too.
    for number in range(180):
        verified = number % 3 == 0 and not 60 <= number < 130
        put(store, None, good(1, 1.0 + number, workload=number, error=1e-6 if verified else None))
    expected = [1.0 + n for n in reversed(range(180)) if n % 3 == 0 and not 60 <= n < 130]
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = store.records.search(limit=limit, cursor=cursor)
        found += [each.record.seconds for each in page.items]
        cursor, pages = page.next, pages + 1
    assert found == expected
    assert pages == -(-len(expected) // limit)


def test_a_cursor_of_another_list_is_refused(store: Store) -> None:
    job = new_job(store)
    put(store, job, good(1, 1.0), good(2, 2.0))
    cursor = store.trials.light_page(job, limit=1).next
    assert cursor is not None
    with pytest.raises(UserError) as caught:
        store.records.search(cursor=cursor)
    assert caught.value.code == "bad-cursor"


def test_questions_that_are_known(store: Store) -> None:
    put(store, None, good(1, 1.0), good(1, 1.0, workload=1, error=None), bad(1, FailureKind.CRASH, workload=2))
    keys = [candidate(workload=number).record_key for number in range(4)]
    groups = [[keys[0], keys[3]], [keys[2]], [keys[1]], [], [keys[0]], [f"{n:064x}" for n in range(1200)]]
    assert store.records.known_questions(groups, **PLACE) == 3
    assert store.records.known_questions(groups, device=DEVICE.fingerprint, toolchain="other") == 0
    assert store.records.known_questions(groups, **PLACE, protocol="0") == 0
    assert store.records.known_questions([], **PLACE) == 0
