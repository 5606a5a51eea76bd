"""A job's trials looked at together, on SQLite and on PostgreSQL."""

from __future__ import annotations

from db_values import bad, good, new_job, put

from db.insight import Insight
from db.store import Store
from tuner.types import FailureKind, Purpose


def test_trials_are_grouped_by_question_with_first_and_best(store: Store) -> None:
    job, other = new_job(store), new_job(store, seed=1)
    ids = put(store, job, good(1, 4e-3), good(9, 9e-3, workload=1), good(2, 3e-3), bad(3, FailureKind.CRASH))
    put(store, other, good(4, 1e-3))
    first, second = Insight(store.database).groups(job)
    assert (first.id, first.trials, first.failed, first.best, first.first) == (ids[0], 3, 1, 3e-3, 4e-3)
    assert (first.template, first.cores, first.first_purpose) == ("conv2d", 1, Purpose.SEARCH)
    assert (second.trials, second.best) == (1, 9e-3)
    assert Insight(store.database).groups("nothing") == []


def test_failed_trials_are_numbered_within_their_job(store: Store) -> None:
    job, other = new_job(store), new_job(store, seed=1)
    put(store, other, good(1, 1e-3))
    put(store, job, good(1, 1e-3), bad(2, FailureKind.CRASH))
    put(store, other, bad(2, FailureKind.CRASH))
    put(store, job, good(3, 1e-3), bad(4, FailureKind.TIMEOUT))
    assert Insight(store.database).failures(job) == [2, 4]


def test_only_trials_with_a_prediction_and_a_time_are_compared_newest_kept(store: Store) -> None:
    job = new_job(store)
    made = [good(n, n * 1e-3, predicted=n * 2e-3) for n in range(1, 5)]
    ids = put(store, job, good(9, 1e-3), *made, bad(8, FailureKind.CRASH))
    found = Insight(store.database).predictions(job, limit=3)
    assert [(one.trial, one.seconds, one.predicted) for one in found] == [
        (id, n * 1e-3, n * 2e-3) for id, n in list(zip(ids[1:5], range(1, 5), strict=True))[1:]
    ]


def test_knobs_come_with_the_times_of_one_question(store: Store) -> None:
    job = new_job(store)
    put(store, job, good(1, 4e-3), good(2, 3e-3), bad(3, FailureKind.WRONG), good(1, 1e-3, workload=1))
    insight = Insight(store.database)
    heaviest = insight.groups(job)[0]
    assert insight.knobs(job, heaviest.record_key) == [({"reg_n": 1, "ob": 16}, 4e-3), ({"reg_n": 2, "ob": 16}, 3e-3)]


def test_the_last_event_is_where_a_watcher_begins(store: Store) -> None:
    job = new_job(store)
    before = Insight(store.database).last_event(job)
    assert store.events.add(job, "progress", {}) == before + 1 == Insight(store.database).last_event(job)
    assert Insight(store.database).last_event("nothing") == 0
