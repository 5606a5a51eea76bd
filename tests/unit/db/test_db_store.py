"""The store's contract, on SQLite and on PostgreSQL."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from db_values import DEVICE, TOOLCHAIN, bad, candidate, good, new_job, put
from sqlalchemy import insert, text

from db.schema import trials as trials_table
from db.store import Store
from tuner.errors import InternalError, UserError
from tuner.types import PROTOCOL, Budget, FailureKind, JobSpec, JobState, Purpose, Trial

PLACE = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN}


def test_a_job_comes_back_equal(store: Store) -> None:
    spec = JobSpec(
        model="cd" * 32,
        budget=Budget(trials=10, seconds=1.5),
        cores=(1, 2),
        shapes={"x": (1, 3, 224, 224)},
        disabled_passes=("fold",),
        plan={"version": 1, "stages": [{"lanes": []}]},
        fresh=True,
    )
    store.devices.put(DEVICE)
    job = store.jobs.get(store.jobs.submit(spec, DEVICE.fingerprint, TOOLCHAIN)[0].id)
    assert job is not None
    assert job.spec == spec
    assert (job.question, job.device, job.toolchain) == (spec.question, DEVICE.fingerprint, TOOLCHAIN)
    assert (job.state, job.stage, job.reason, job.report) == (JobState.QUEUED, "", None, None)
    assert job.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - job.created_at) < timedelta(minutes=5)


def test_a_job_has_a_start_and_an_end(store: Store) -> None:
    id = new_job(store)
    claim = store.queue.start(id, "somebody", 60.0)
    store.queue.progress(claim, stage="search", best_seconds=0.5)
    running = store.jobs.get(id)
    store.queue.finish(claim, JobState.FAILED, reason="said \0", report={"device": {"cores": 2}})
    failed = store.jobs.get(id)
    store.jobs.request(id, "retry")
    again = store.jobs.get(id)
    assert running and running.started_at and running.started_at.tzinfo is UTC
    assert failed and failed.finished_at and failed.finished_at >= running.started_at
    assert failed == replace(
        running, state=JobState.FAILED, reason="said \0", report={"device": {"cores": 2}}, driver=None,
        finished_at=failed.finished_at,
    )  # fmt: skip
    assert again and again.finished_at is None and again.reason is None and again.best_seconds == 0.5


def test_what_is_not_there(store: Store) -> None:
    assert store.jobs.get("none") is None
    assert store.models.get("none") is None
    assert store.devices.get("none") is None
    assert store.trials.page("none") == []
    assert store.events.after("none") == []
    assert store.records.best([], **PLACE) == {}
    assert store.records.best(["none"], **PLACE) == {}
    for call in (
        lambda: store.jobs.request("none", "cancel"),
        lambda: store.queue.start("none", "somebody", 60.0),
        lambda: store.events.add("none", "x", {}),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert caught.value.code == "unknown-job"
    with pytest.raises(UserError):
        store.devices.measured("none", bandwidth=1.0)


def test_jobs_are_listed_newest_first_page_by_page(store: Store) -> None:
    ids = [new_job(store, seed=seed) for seed in range(5)]
    store.queue.start(ids[1], "somebody", 60.0)
    assert [job.id for job in store.jobs.list().items] == ids[::-1]
    page = store.jobs.list(limit=2)
    assert [job.id for job in page.items] == ids[:2:-1]
    assert [job.id for job in store.jobs.list(limit=2, cursor=page.next).items] == [ids[2], ids[1]]
    assert [job.id for job in store.jobs.list(state=JobState.RUNNING).items] == [ids[1]]
    assert [job.id for job in store.jobs.list(question=JobSpec(model="ab" * 32, seed=3).question).items] == [ids[3]]
    assert store.jobs.list(device="other").items == store.jobs.list(model="other").items == []


def test_models_are_stored_once_and_deleted(store: Store) -> None:
    first = store.models.put("ef" * 32, name="resnet50", layers=122, macs=4_089_184_256, size=102_000_000)
    again = store.models.put("ef" * 32, name="other", layers=1, macs=1, size=1)
    assert again == first == store.models.get("ef" * 32)
    assert store.models.list().items == [first]
    assert store.models.delete("ef" * 32) and not store.models.delete("ef" * 32)
    assert store.models.list().items == []
    assert store.models.get("ef" * 32) == replace(first, file=False)


def test_a_device_seen_again_keeps_its_measured_figures(store: Store) -> None:
    fingerprint = store.devices.put(DEVICE)
    store.devices.measured(fingerprint, peak_flops=5e11)
    store.devices.put(replace(DEVICE, name="renamed"))
    known = store.devices.get(fingerprint)
    assert known and known.device == replace(DEVICE, name="renamed")
    assert (known.peak_flops, known.bandwidth) == (5e11, None)
    assert known.last_seen_at > known.first_seen_at
    assert store.devices.list(name="renamed") == [known] and store.devices.list(name="cpu") == []


def test_trials_come_back_equal_and_in_order(store: Store) -> None:
    job = new_job(store)
    stored = [
        good(1, 3e-4, 1e-4, 2e-4, build_seconds=0.5, measure_seconds=0.25),
        bad(2, FailureKind.CRASH),
        good(3, 1e-4, workload=7, error=None, purpose=Purpose.FINAL),
        good(4, 1e-4, error=math.inf),
    ]
    ids = put(store, job, *stored)
    put(store, new_job(store), good(9, 1.0))
    page = store.trials.page(job)
    assert [each.trial for each in page] == stored
    assert [each.trial.candidate.key for each in page] == [each.candidate.key for each in stored]
    assert [each.id for each in page] == ids == sorted(ids)
    assert (page[0].job, page[0].device, page[0].toolchain, page[0].protocol) == (
        job,
        DEVICE.fingerprint,
        TOOLCHAIN,
        PROTOCOL,
    )
    assert [each.id for each in store.trials.page(job, after=ids[0], limit=2)] == ids[1:3]
    counts = store.trials.count(job)
    assert (counts.measured, counts.failed) == (4, 1)


def test_an_error_that_is_not_a_number_counts_as_infinite(store: Store) -> None:
    job = new_job(store)
    put(store, job, good(1, 1.0, error=math.nan))
    assert store.trials.page(job)[0].trial.max_rel_error == math.inf


def test_known_candidates_are_those_that_need_no_further_try(store: Store) -> None:
    put(store, None, good(1, 1.0), bad(2, FailureKind.WRONG), bad(3, FailureKind.TIMEOUT), good(4, 1.0, workload=1))
    put(store, None, bad(5, FailureKind.LOST), good(5, 1.0))
    question = [candidate().record_key]
    expected = {candidate(number).key for number in (1, 2, 5)}
    assert store.trials.known(question, **PLACE) == expected
    assert store.trials.known(question, device=DEVICE.fingerprint, toolchain="other") == set()
    assert store.trials.known(question, **PLACE, protocol="0") == set()
    assert len(store.trials.of_records(question, **PLACE)) == 5


def test_samples_are_the_newest_successes(store: Store) -> None:
    measured = [good(number, 1.0 + number) for number in range(5)]
    put(store, None, *measured, bad(9, FailureKind.BUILD))
    assert store.trials.samples(DEVICE.fingerprint, TOOLCHAIN) == measured
    assert store.trials.samples(DEVICE.fingerprint, TOOLCHAIN, limit=2) == measured[3:]
    assert store.trials.samples("other", TOOLCHAIN) == []


def test_the_record_is_the_candidate_with_the_best_median_over_all_its_samples(store: Store) -> None:
    # Candidate 1 looked best at first; measured again as a finalist it is not.
    put(store, None, good(1, 1.0), good(2, 2.0, 2.0, 9.0), good(3, 3.0))
    put(store, None, good(1, 5.0, 5.0, error=None, purpose=Purpose.FINAL), good(1, 9.0, workload=1))
    found = store.records.best([candidate().record_key, candidate(workload=1).record_key, "none"], **PLACE)
    assert set(found) == {candidate().record_key, candidate(workload=1).record_key}
    record = found[candidate().record_key]
    assert record.candidate == candidate(2)
    assert (record.seconds, record.samples) == (2.0, 3)
    assert (record.device, record.toolchain, record.protocol) == (DEVICE.fingerprint, TOOLCHAIN, PROTOCOL)
    assert found[candidate(workload=1).record_key].seconds == 9.0
    assert store.records.best([candidate().record_key], device=DEVICE.fingerprint, toolchain="other") == {}


def test_unverified_and_wrong_candidates_are_no_records(store: Store) -> None:
    put(store, None, good(1, 1.0, error=None), good(2, 2.0), bad(2, FailureKind.WRONG), bad(3, FailureKind.CRASH))
    assert store.records.best([candidate().record_key], **PLACE) == {}
    assert store.records.search().items == []
    put(store, None, good(3, 3.0))  # a crash is no proof of a wrong result
    assert store.records.best([candidate().record_key], **PLACE)[candidate().record_key].candidate == candidate(3)


def test_more_questions_than_one_query_takes(store: Store) -> None:
    put(store, None, good(1, 1.0), good(1, 2.0, workload=1))
    wanted = [f"{number:064x}" for number in range(40_000)] + [candidate().record_key, candidate(workload=1).record_key]
    assert len(store.records.best(wanted, **PLACE)) == 2


def test_events_are_numbered_within_their_job(store: Store) -> None:
    one, two = new_job(store), new_job(store)
    # The first event of each told that the job is queued.
    assert [store.events.add(one, "stage", {"n": n, "x": float("inf")}) for n in range(3)] == [2, 3, 4]
    assert store.events.add(two, "stage", {}) == 2
    later = store.events.after(one, 2)
    assert [(event.seq, event.kind, event.payload) for event in later] == [
        (3, "stage", {"n": 1, "x": float("inf")}),
        (4, "stage", {"n": 2, "x": float("inf")}),
    ]
    assert later[0].created_at.tzinfo is UTC
    assert [event.seq for event in store.events.after(one, 0, limit=1)] == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"samples": None, "seconds": None},
        {"failure_kind": "crash", "failure_message": "x", "failure_stderr": ""},
        {"seconds": None},
        {"device": "unknown"},
        {"workload": "unknown"},
        {"job": "unknown"},
    ],
)
def test_the_database_itself_refuses_broken_trials(store: Store, change: dict[str, object]) -> None:
    job = new_job(store)
    put(store, job, good(1, 1.0))
    with store.database.read() as connection:
        row = dict(connection.execute(trials_table.select()).one()._mapping)
    row.pop("id")
    with pytest.raises(InternalError) as caught, store.database.write() as connection:
        connection.execute(insert(trials_table).values(**row | change))
    assert caught.value.code == "database-invariant"
    assert len(store.trials.page(job)) == 1


def test_the_database_itself_refuses_an_unknown_state(store: Store) -> None:
    new_job(store)
    with pytest.raises(InternalError), store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET state = 'LOST'"))
    with pytest.raises(InternalError), store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET state = 'FAILED'"))


def test_a_deleted_job_leaves_its_trials(store: Store) -> None:
    job = new_job(store)
    put(store, job, good(1, 1.0))
    store.events.add(job, "stage", {})
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM jobs"))
    assert store.events.after(job) == []
    assert len(store.records.best([candidate().record_key], **PLACE)) == 1


def test_a_trial_number_is_never_given_twice(store: Store) -> None:
    job = new_job(store)
    last = put(store, job, good(1, 1.0), good(2, 1.0))[-1]
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM trials"))
    assert put(store, job, good(3, 1.0))[0] > last


def test_trials_in_another_order_of_knobs_are_the_same_candidate(store: Store) -> None:
    one = candidate(3)
    other = replace(one, knobs=dict(reversed(one.knobs.items())))
    put(store, None, Trial(one, samples=(1.0,), max_rel_error=0.0), Trial(other, samples=(3.0,), max_rel_error=0.0))
    assert store.records.best([one.record_key], **PLACE)[one.record_key].seconds == 2.0
