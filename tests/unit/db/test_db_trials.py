"""Pages of trials: filters, orders, cursors, failures by kind; and what a driver that lost its job may not add."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from db_plans import recorded, scans, sorts
from db_values import DEVICE, TOOLCHAIN, bad, candidate, good, new_job, put
from sqlalchemy import text

from db.columns import now
from db.queue import StaleDriver
from db.rows import question_row, trial_row, workload_row
from db.schema import questions, trials, workloads
from db.store import Store
from db.trials import LightTrial
from tuner.errors import InternalError, UserError
from tuner.types import PROTOCOL, FailureKind, Purpose, Trial

PLACE = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN}


@pytest.fixture
def mixed(store: Store) -> tuple[Store, str, list[int]]:
    """A job of 40 trials, a fourth of them failed in three ways, with equal times among the others; and another job."""
    job, other = new_job(store), new_job(store)
    kinds = (FailureKind.CRASH, FailureKind.TIMEOUT, FailureKind.WRONG)
    made: list[Trial] = []
    for number in range(40):
        if number % 4 == 3:
            made.append(bad(number, kinds[number // 4 % 3]))
        else:
            made.append(good(number, 1e-3 * (1 + number * 7 % 5)))
    ids = []
    for trial in made:
        ids += put(store, job, trial)
        put(store, other, trial)
    return store, job, ids


def walked(store: Store, job: str, limit: int, **options: Any) -> list[LightTrial]:
    """All pages one after the other."""
    found, cursor = [], None
    while True:
        page = store.trials.light_page(job, cursor=cursor, limit=limit, **options)
        assert len(page.items) == limit or page.next is None
        found += page.items
        if page.next is None:
            return found
        cursor = page.next


def test_a_light_trial_says_what_a_list_shows(store: Store) -> None:
    job = new_job(store)
    put_with_words = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN, "summary": "conv 64→64"}
    made = replace(good(3, 3.0, 1.0, build_seconds=0.5, measure_seconds=0.25), predicted=1.5)
    first = store.trials.add(job, made, **put_with_words)
    second = put(store, job, bad(4, FailureKind.CRASH))[0]
    one, two = store.trials.light_page(job).items
    assert one == LightTrial(
        first, made.candidate.workload_hash, "conv 64→64", "conv2d", {"reg_n": 3, "ob": 16}, 1, Purpose.SEARCH, 2.0,
        1.5, None, None, 0.5, 0.25, one.created_at,
    )  # fmt: skip
    assert (two.id, two.seconds, two.failure_kind, two.failure_message) == (second, None, "crash", "it \0 died")
    assert two.summary == "conv 64→64"
    assert store.trials.page(job, light=True) == [one, two]


@pytest.mark.parametrize("limit", [1, 7, 40])
@pytest.mark.parametrize("desc", [False, True])
@pytest.mark.parametrize("order", ["id", "seconds"])
def test_walking_through_the_pages_meets_every_trial_once_in_order(
    mixed: tuple[Store, str, list[int]], order: str, desc: bool, limit: int
) -> None:
    store, job, ids = mixed
    stored = {each.id: each.trial for each in store.trials.page(job)}
    failed = [id for id in ids if stored[id].failure]
    if order == "id":
        expected = sorted(ids, reverse=desc)
    else:
        measured = [id for id in ids if id not in failed]
        expected = sorted(measured, key=lambda id: (stored[id].seconds or 0, id), reverse=desc) + failed
    assert [trial.id for trial in walked(store, job, limit, order=order, desc=desc)] == expected
    ok = [trial.id for trial in walked(store, job, limit, order=order, desc=desc, state="ok")]
    assert ok == [id for id in expected if id not in failed]
    found = [trial.id for trial in walked(store, job, limit, order=order, desc=desc, state="failed")]
    assert found == [id for id in expected if id in failed]
    crashed = walked(store, job, limit, order=order, desc=desc, kind=FailureKind.CRASH)
    assert len(crashed) == 4 and {trial.failure_kind for trial in crashed} == {"crash"}
    assert walked(store, job, limit, order=order, desc=desc, state="ok", kind=FailureKind.CRASH) == []


def test_full_pages_have_the_same_filters(mixed: tuple[Store, str, list[int]]) -> None:
    store, job, ids = mixed
    failed = [each.id for each in store.trials.page(job) if each.trial.failure]
    assert [each.id for each in store.trials.page(job, state="failed")] == failed
    assert [each.id for each in store.trials.page(job, state="ok")] == [id for id in ids if id not in failed]
    assert [each.id for each in store.trials.page(job, failed[1], 2, state="failed")] == failed[2:4]
    crashed = store.trials.page(job, kind=FailureKind.CRASH)
    assert len(crashed) == 4
    assert all(each.trial.failure and each.trial.failure.kind is FailureKind.CRASH for each in crashed)
    assert store.trials.page(job, after=10**30) == []


def test_a_cursor_of_another_list_is_refused(mixed: tuple[Store, str, list[int]]) -> None:
    store, job, _ = mixed
    cursor = store.trials.light_page(job, order="seconds", limit=2).next
    assert cursor is not None
    for options in ({"order": "id"}, {"order": "seconds", "desc": True}):
        with pytest.raises(UserError) as caught:
            store.trials.light_page(job, cursor=cursor, **options)  # type: ignore[arg-type]
        assert caught.value.code == "bad-cursor"
    for nonsense in ("", "é", "!", "e30", "bnVsbA"):
        with pytest.raises(UserError):
            store.trials.light_page(job, cursor=nonsense)


def test_trials_added_between_two_pages_move_nothing(mixed: tuple[Store, str, list[int]]) -> None:
    store, job, _ = mixed
    first = store.trials.light_page(job, order="seconds", limit=10)
    put(store, job, good(100, 1e-9), good(101, 2.5e-3), good(102, 9.0))
    rest = store.trials.light_page(job, order="seconds", limit=100, cursor=first.next).items
    assert not {trial.id for trial in first.items} & {trial.id for trial in rest}
    known = [trial.seconds for trial in (*first.items, *rest) if trial.seconds is not None]
    assert known == sorted(known) and known[-1] == 9.0 and len(known) == 32


def test_streaming_gives_everything_and_keeps_no_transaction_open(mixed: tuple[Store, str, list[int]]) -> None:
    store, job, ids = mixed
    stream = store.trials.stream(job, chunk=7)
    seen = [next(stream).id]
    late = put(store, job, good(200, 1.0))  # on SQLite an open reader would not see it, on either it is no obstacle
    store.database.engine.dispose()
    seen += [each.id for each in stream]
    assert seen == ids + late
    assert [each.id for each in store.trials.stream(job, chunk=3, kind=FailureKind.WRONG)] == [
        each.id for each in store.trials.page(job, kind=FailureKind.WRONG)
    ]
    assert store.trials.mine(job) == [each.trial for each in store.trials.page(job)]


def test_one_trial_by_its_number(store: Store) -> None:
    job = new_job(store)
    made = [replace(good(1, 2.0), predicted=2.5), bad(2, FailureKind.CRASH)]
    for id, trial in zip(put(store, job, *made), made, strict=True):
        found = store.trials.get(id)
        assert found and (found.id, found.job, found.trial) == (id, job, trial)
    assert [store.trials.get(id) for id in (0, -1, 999, 2**63, 10**30)] == [None] * 5


def test_failures_are_grouped_with_their_first_example(mixed: tuple[Store, str, list[int]]) -> None:
    store, job, ids = mixed
    groups = store.trials.failures(job)
    assert [(group.kind, group.count, group.trial) for group in groups] == [
        (FailureKind.CRASH, 4, ids[3]),
        (FailureKind.TIMEOUT, 3, ids[7]),
        (FailureKind.WRONG, 3, ids[11]),
    ]
    assert (groups[0].message, groups[0].stderr) == ("it \0 died", "last words \udc80\n")
    assert store.trials.failures(new_job(store)) == []


def test_a_driver_that_lost_its_job_adds_nothing(store: Store) -> None:
    job = new_job(store)
    old = store.queue.start(job, "one", 60)
    options = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN}
    store.trials.add(job, good(1, 1.0), claim=old, **options)
    store.queue.release(old, reason=None)
    with pytest.raises(StaleDriver):
        store.trials.add(job, good(2, 1.0, workload=5), claim=old, **options)
    new = store.queue.start(job, "two", 60)
    with pytest.raises(StaleDriver):
        store.trials.add(job, good(2, 1.0), claim=old, **options)
    store.trials.add(job, good(3, 1.0), claim=new, **options)
    assert [trial.candidate for trial in store.trials.mine(job)] == [candidate(1), candidate(3)]
    assert store.records.best([candidate(workload=5).record_key], **PLACE) == {}
    with pytest.raises(ValueError):
        store.trials.add(new_job(store), good(4, 1.0), claim=new, **options)


def test_no_committed_trial_is_made_again_in_its_job(store: Store) -> None:
    job = new_job(store)
    put(store, job, good(1, 1.0), bad(2, FailureKind.CRASH))
    for repeated in (good(1, 2.0), good(2, 1.0), bad(1, FailureKind.BUILD), good(1, 1.0, purpose=Purpose.CORES)):
        with pytest.raises(InternalError) as caught:
            put(store, job, repeated)
        assert caught.value.code == "database-invariant"
    # A reason that passes allows another try, a finalist is measured again on purpose, and other jobs are free.
    put(store, job, bad(3, FailureKind.TIMEOUT), bad(3, FailureKind.LOST), good(3, 1.0), bad(3, FailureKind.MEMORY))
    put(store, job, good(1, 1.5, purpose=Purpose.FINAL), good(1, 1.5, purpose=Purpose.FINAL))
    put(store, new_job(store), good(1, 1.0))
    put(store, None, good(1, 1.0), good(1, 1.0))
    assert store.trials.count(job).measured == 8


@pytest.fixture
def full(store: Store) -> tuple[Store, str]:
    """A job with 8,000 trials, a tenth of them failed, and another with 1,000; statistics are up to date."""
    store.devices.put(DEVICE)
    many, other = new_job(store), new_job(store)
    asked = [candidate(workload=workload) for workload in range(500)]
    rows = []
    for number in range(9_000):
        made = good(number, 1e-3 + number * 7919 % 1000 * 1e-6, workload=number % 500)
        if number % 10 == 0:
            made = bad(number, FailureKind.CRASH if number % 20 else FailureKind.BUILD, workload=number % 500)
        job = many if number < 8_000 else other
        rows.append(trial_row(made) | PLACE | {"job": job, "protocol": PROTOCOL, "created_at": now()})
    with store.database.write() as connection:
        connection.execute(workloads.insert(), [workload_row(one, "conv", now()) for one in asked])
        connection.execute(trials.insert(), rows)
        at = PLACE | {"protocol": PROTOCOL}
        connection.execute(questions.insert(), [question_row(c) | at | {"last_trial": n} for n, c in enumerate(asked)])
    with store.database.write() as connection:
        connection.execute(text("ANALYZE"))
    return store, many


def test_every_page_is_read_through_an_index_in_its_order(full: tuple[Store, str]) -> None:
    store, job = full
    filters: list[dict[str, Any]] = [{}, {"state": "ok"}, {"state": "failed"}, {"kind": FailureKind.CRASH}]
    for order, desc, filtered in product(("id", "seconds"), (False, True), filters):
        options = {"order": order, "desc": desc} | filtered
        with recorded(store) as sent:
            first = store.trials.light_page(job, limit=50, **options)
            second = store.trials.light_page(job, limit=50, cursor=first.next, **options)
        assert len(first.items) == len(second.items) == 50
        assert_ordered_by_index(store, sent)
    for filtered in filters:
        with recorded(store) as sent:
            assert len(store.trials.page(job, 4_000, 50, **filtered)) == 50
        assert_ordered_by_index(store, sent)
    with recorded(store) as sent:
        groups = store.trials.failures(job)
        page = store.records.search(limit=20)
    assert [(group.kind, group.count) for group in groups] == [(FailureKind.BUILD, 400), (FailureKind.CRASH, 400)]
    assert len(page.items) == 20 and page.next is not None
    for statement, parameters in sent:
        assert scans(store, statement, parameters, small=True) == [], statement


def assert_ordered_by_index(store: Store, sent: list[tuple[str, Any]]) -> None:
    assert sent
    for statement, parameters in sent:
        assert scans(store, statement, parameters) == sorts(store, statement, parameters) == [], statement
