"""Answers that are handed out again, deletion in steps, and what a driver can and cannot do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from db_plans import recorded
from db_values import DEVICE, TOOLCHAIN, bad, good, new_job, put
from sqlalchemy import Update, select, update

from db.jobs import Job
from db.queue import LIMIT
from db.schema import jobs, models, trials
from db.store import Store
from tuner.errors import UserError
from tuner.types import FailureKind, JobSpec, JobState
from tuner.versions import ENGINE

HERE = DEVICE.fingerprint
SPEC = JobSpec(model="ab" * 32)


def submit(store: Store, spec: JobSpec = SPEC, **more: Any) -> Job:
    store.devices.put(DEVICE)
    return store.jobs.submit(spec, HERE, TOOLCHAIN, **more)[0]


def done(store: Store, number_of_trials: int = 2) -> Job:
    claim = store.queue.start(submit(store).id, "me", 60)
    put(store, claim.job, *(good(number, 1.0) for number in range(number_of_trials)))
    store.queue.progress(claim, measured=number_of_trials)
    store.queue.finish(claim, JobState.SUCCEEDED, report={"n": 1})
    return job(store, claim.job)


def job(store: Store, id: str) -> Job:
    found = store.jobs.get(id)
    assert found is not None
    return found


def refused(code: str, call: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def test_an_answer_of_an_answer_names_the_job_that_has_the_trials(store: Store) -> None:
    source = done(store)
    first = submit(store, answer=source)
    second = submit(store, answer=first)
    third = submit(store, answer=second)
    assert {each.answered_by for each in (first, second, third)} == {source.id}
    assert {each.reused_trials for each in (first, second, third)} == {2}


def test_a_job_stays_as_long_as_others_hand_out_its_result(store: Store) -> None:
    source = done(store)
    answers = [submit(store, answer=source) for _ in range(2)]
    assert "Other jobs" in str(refused("wrong-state", lambda: store.jobs.delete(source.id)))
    assert len(store.trials.page(source.id)) == 2 and store.jobs.get(source.id) is not None
    store.jobs.delete(answers[0].id)
    refused("wrong-state", lambda: store.jobs.delete(source.id))
    store.jobs.request(answers[1].id, "retry")  # now it works itself
    store.jobs.delete(source.id)
    assert store.jobs.get(source.id) is None


def test_retention_keeps_a_job_as_long_as_its_answers(store: Store) -> None:
    source = done(store)
    answer = submit(store, answer=source)
    with store.database.write() as connection:
        old = {"finished_at": source.created_at - timedelta(days=9)}
        connection.execute(update(jobs).where(jobs.c.id == source.id).values(**old))
    assert store.jobs.expire(timedelta(days=5)) == 0
    assert store.jobs.get(source.id) is not None
    with store.database.write() as connection:
        old = {"finished_at": source.created_at - timedelta(days=8)}
        connection.execute(update(jobs).where(jobs.c.id == answer.id).values(**old))
    assert store.jobs.expire(timedelta(days=5)) == 2


@contextmanager
def killed_in_between(store: Store, monkeypatch: pytest.MonkeyPatch, id: str) -> Iterator[None]:
    """A deletion whose process dies after the first portion of trials."""

    def die(_seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("db.removal._PORTION", 2)
        patch.setattr("db.removal.time.sleep", die)
        with pytest.raises(KeyboardInterrupt):
            store.jobs.delete(id)
    yield
    assert store.jobs.sweep() == 1
    with store.database.read() as connection:
        assert connection.execute(select(jobs.c.id).where(jobs.c.id == id)).all() == []
        assert len(connection.execute(select(trials.c.id).where(trials.c.job.is_(None))).all()) == 5
    assert store.jobs.sweep() == 0


def test_a_job_whose_deletion_began_is_gone_for_everybody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, gone = done(store, 1), done(store, 5)
    with killed_in_between(store, monkeypatch, gone.id):
        assert store.jobs.get(gone.id) is None
        assert [each.id for each in store.jobs.list().items] == [kept.id]
        assert [each.id for each in store.jobs.list(state=JobState.SUCCEEDED, device="cpu").items] == [kept.id]
        assert store.jobs.counts()[JobState.SUCCEEDED] == 1
        assert store.events.after(gone.id) == [] and store.jobs.files(gone.id) == {}
        for action in ("retry", "cancel"):
            refused("unknown-job", lambda action=action: store.jobs.request(gone.id, action))  # type: ignore[misc]
        refused("unknown-job", lambda: store.jobs.delete(gone.id))
        refused("unknown-job", lambda: store.queue.start(gone.id, "me", 60))
        refused("unknown-job", lambda: store.events.add(gone.id, "x", {}))
        assert submit(store, answer=gone).state is JobState.QUEUED


def test_the_next_deletion_ends_one_that_was_cut_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other, gone = done(store, 0), done(store, 5)
    with monkeypatch.context() as patch:
        patch.setattr("db.jobs.Jobs.sweep", lambda _: 0)
        store.jobs.delete(gone.id)
    store.jobs.delete(other.id)
    assert store.jobs.sweep() == 0
    with store.database.read() as connection:
        assert connection.execute(select(jobs.c.id)).all() == []


def meanwhile(store: Store, change: Update, call: Callable[[], Any]) -> Any:
    """What a call gives that begins while a transaction with the change is open."""
    with ThreadPoolExecutor(1) as pool:
        with store.database.write() as connection:
            connection.execute(change)
            waiting = pool.submit(call)
            time.sleep(0.3)  # it gets as far as it can
        return waiting.result()


def test_no_job_is_taken_for_a_model_that_is_just_being_deleted(store: Store) -> None:
    store.models.put(SPEC.model, name="net", layers=1, macs=1, size=1)
    assert submit(store, uploaded=True).state is JobState.QUEUED
    gone = update(models).where(models.c.sha256 == SPEC.model).values(file=False)
    refused("unknown-model", lambda: meanwhile(store, gone, lambda: submit(store, uploaded=True)))
    refused("unknown-model", lambda: submit(store, JobSpec(model="cd" * 32), uploaded=True))


def test_no_answer_is_taken_from_a_job_that_is_just_being_deleted(store: Store) -> None:
    source = done(store)
    gone = update(jobs).where(jobs.c.id == source.id).values(deleted=True)
    found = meanwhile(store, gone, lambda: submit(store, answer=source))
    assert (found.state, found.reused, found.answered_by) == (JobState.QUEUED, False, None)


def test_lists_and_light_jobs_do_not_read_plans(store: Store) -> None:
    plan = {"version": 1, "bounds": [float("-inf"), 1.0], "words": "é"}
    made = submit(store, JobSpec(model=SPEC.model, plan=plan, shapes={"x": (1, 2)}))
    assert made.spec.plan == job(store, made.id).spec.plan == plan
    assert made.question == made.spec.question
    with recorded(store, "FROM jobs") as sent:
        (listed,) = store.jobs.list().items
        light = store.jobs.get(made.id, light=True)
    assert light == listed and listed.spec == JobSpec(model=SPEC.model, shapes={"x": (1, 2)})
    assert not any("plan" in statement for statement, _ in sent)
    with store.database.read() as connection:
        assert "bounds" not in connection.exec_driver_sql("SELECT spec FROM jobs").scalar_one()


def test_a_job_tells_which_engine_ran_it_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = submit(store)
    assert waiting.engine == ""
    monkeypatch.setattr("db.queue.ENGINE", "older")
    source = done(store)
    assert source.engine == "older"
    assert submit(store, answer=source).engine == "older"
    monkeypatch.undo()
    store.jobs.request(source.id, "retry")
    store.queue.start(source.id, "me", 60)
    assert job(store, source.id).engine == ENGINE


def test_a_job_that_its_submitter_drives_cannot_be_paused(store: Store) -> None:
    own = submit(store, paused=True)
    claim = store.queue.start(own.id, "the command line", 60)
    refused("wrong-state", lambda: store.jobs.request(own.id, "pause"))
    assert job(store, own.id).wanted is None
    # Its process dies; a server goes on with it, and that can.
    store.queue.crashed(claim, "died")
    assert store.queue.claim("server", devices=[HERE], per_device=1, seconds=60) is not None
    assert store.jobs.request(own.id, "pause").wanted == "pause"


def test_trials_that_fail_for_passing_reasons_are_no_progress(store: Store) -> None:
    id = new_job(store)
    for run in range(LIMIT):
        claim = store.queue.start(id, "me", 60)
        put(store, id, bad(1, FailureKind.TIMEOUT), bad(2, FailureKind.LOST), bad(3, FailureKind.MEMORY))
        state = store.queue.crashed(claim, "died")
        assert state is (JobState.FAILED if run == LIMIT - 1 else JobState.QUEUED)
    store.jobs.request(id, "retry")
    for number in range(LIMIT):
        claim = store.queue.start(id, "me", 60)
        put(store, id, bad(number, FailureKind.CRASH), bad(100, FailureKind.TIMEOUT))
        assert store.queue.crashed(claim, "died") is JobState.QUEUED
