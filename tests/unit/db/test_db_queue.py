"""The queue: who gets which job, what each state allows, and that a stale driver changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from db_values import DEVICE, TOOLCHAIN, good, new_job, together
from sqlalchemy import event, text

from db.jobs import MOVES, Job
from db.moves import LONGEST
from db.queue import LIMIT, Claim, StaleDriver
from db.store import Store
from tuner.errors import InternalError, UserError
from tuner.types import JobSpec, JobState

ROOT = Path(__file__).parents[3]
HERE = DEVICE.fingerprint
QUEUED, RUNNING, PAUSED, CANCELLING = JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.CANCELLING
SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
GONE = -1.0  # a lease that has run out already, without waiting for it


def job_of(store: Store, id: str) -> Job:
    job = store.jobs.get(id)
    assert job is not None
    return job


def claim(store: Store, holder: str = "me", per_device: int = 1, seconds: float = 60.0) -> Claim | None:
    return store.queue.claim(holder, devices=[HERE], per_device=per_device, seconds=seconds)


def started(store: Store, seconds: float = 60.0, **spec: object) -> Claim:
    return store.queue.start(new_job(store, **spec), "me", seconds)


def told(store: Store, job: str) -> list[tuple[str, str | None]]:
    """The states that watchers of the job were told of, with what was wanted."""
    events = store.events.after(job)
    return [(each.payload["state"], each.payload["wanted"]) for each in events if each.kind == "state"]


def brought_to(store: Store, state: JobState) -> str:
    """A new job in the state, by the way jobs get there."""
    id = new_job(store)
    if state is PAUSED:
        store.jobs.request(id, "pause")
    elif state is not QUEUED:
        held = store.queue.start(id, "me", 60)
        if state is CANCELLING:
            store.jobs.request(id, "cancel")
        elif state in {SUCCEEDED, FAILED, CANCELLED}:
            store.queue.finish(held, state, reason="said so")  # type: ignore[arg-type]
    assert job_of(store, id).state is state
    return id


EXPECTED = {
    ("cancel", QUEUED): CANCELLED, ("cancel", PAUSED): CANCELLED, ("cancel", RUNNING): CANCELLING,
    ("cancel", CANCELLING): CANCELLING, ("cancel", CANCELLED): CANCELLED,
    ("pause", QUEUED): PAUSED, ("pause", PAUSED): PAUSED, ("pause", RUNNING): RUNNING,
    ("resume", PAUSED): QUEUED, ("resume", QUEUED): QUEUED, ("resume", RUNNING): RUNNING,
    ("retry", SUCCEEDED): QUEUED, ("retry", FAILED): QUEUED, ("retry", CANCELLED): QUEUED,
    ("retry", QUEUED): QUEUED, ("retry", RUNNING): RUNNING,
}  # fmt: skip


@pytest.mark.parametrize("action", list(MOVES))
def test_what_clients_may_ask_in_each_state(store: Store, action: Any) -> None:
    for state in JobState:
        id = brought_to(store, state)
        before, events = job_of(store, id), len(store.events.after(id))
        target = EXPECTED.get((action, state))
        if target is None:
            with pytest.raises(UserError) as caught:
                store.jobs.request(id, action)
            assert caught.value.code == "wrong-state" and state.value in str(caught.value)
            assert job_of(store, id) == before
            continue
        job = store.jobs.request(id, action)
        assert job.state is target, (action, state)
        assert job == job_of(store, id)
        assert (job.finished_at is not None) == (target in {SUCCEEDED, FAILED, CANCELLED})
        if job != before:
            assert told(store, id)[-1] == (target.value, job.wanted)
            assert len(store.events.after(id)) == events + 1
        # Asking twice does no more than asking once.
        events = len(store.events.after(id))
        assert store.jobs.request(id, action) == job
        assert len(store.events.after(id)) == events


def test_a_running_job_is_asked_to_stop_through_its_driver(store: Store) -> None:
    held = started(store)
    assert store.queue.renew(held, 60, elapsed=1.5) is None
    assert store.jobs.request(held.job, "pause").wanted == "pause"
    assert store.queue.renew(held, 60) == "pause"
    assert store.jobs.request(held.job, "resume").wanted is None
    assert store.jobs.request(held.job, "cancel").wanted == "cancel"
    assert store.queue.renew(held, 60, elapsed=2.5) == "cancel"
    assert store.queue.finish(held, CANCELLED, reason="Cancelled.", best_seconds=0.5) is CANCELLED
    job = job_of(store, held.job)
    assert (job.wanted, job.driver, job.elapsed, job.best_seconds) == (None, None, 2.5, 0.5)
    assert told(store, held.job) == [
        ("QUEUED", None), ("RUNNING", None), ("RUNNING", "pause"), ("RUNNING", None), ("CANCELLING", "cancel"),
        ("CANCELLED", None),
    ]  # fmt: skip


def test_a_cancel_that_comes_while_pausing_wins(store: Store) -> None:
    held = started(store)
    store.jobs.request(held.job, "pause")
    store.jobs.request(held.job, "cancel")
    assert store.queue.finish(held, PAUSED) is CANCELLED
    assert job_of(store, held.job).state is CANCELLED


def test_a_paused_job_goes_on_with_a_new_driver(store: Store) -> None:
    held = started(store)
    store.jobs.request(held.job, "pause")
    assert store.queue.finish(held, PAUSED, reason="Paused on request.") is PAUSED
    assert claim(store) is None
    store.jobs.request(held.job, "resume")
    again = claim(store)
    assert again == Claim(held.job, held.fence + 1, "me")
    first, second = store.queue.attempts(held.job)
    assert (first.outcome, second.outcome, second.ended_at) == ("paused", None, None)


def test_a_retry_starts_afresh_but_keeps_what_was_worked(store: Store) -> None:
    held = started(store)
    store.queue.progress(held, elapsed=9.0, stage="search", measured=4)
    store.queue.finish(held, FAILED, reason="It broke.")
    job = store.jobs.request(held.job, "retry")
    assert (job.state, job.retries, job.elapsed, job.reason, job.finished_at) == (QUEUED, True, 9.0, None, None)
    assert (job.stage, job.measured, job.attempts) == ("", 4, 0)
    again = claim(store)
    assert again and job_of(store, held.job).retries
    store.queue.progress(again, retries=False)
    assert not job_of(store, held.job).retries
    assert job_of(store, held.job).started_at == job.started_at


def test_jobs_are_claimed_by_priority_and_then_by_age(store: Store) -> None:
    store.devices.put(DEVICE)
    ids = [
        store.jobs.submit(JobSpec(model="ab" * 32), HERE, TOOLCHAIN, priority=priority)[0].id
        for priority in (0, 5, 5, -1)
    ]
    taken = [claim(store, per_device=9) for _ in range(5)]
    assert [each.job if each else None for each in taken] == [ids[1], ids[2], ids[0], ids[3], None]


def test_a_device_runs_no_more_jobs_than_it_may(store: Store) -> None:
    other = replace(DEVICE, model="Other CPU")
    store.devices.put(other)
    mine = [new_job(store), new_job(store)]
    theirs = store.jobs.submit(JobSpec(model="ab" * 32), other.fingerprint, TOOLCHAIN)[0].id
    first = claim(store)
    assert first and first.job == mine[0]
    assert claim(store) is None  # neither the busy device nor one that was not named
    both = store.queue.claim("me", devices=[HERE, other.fingerprint], per_device=1, seconds=60)
    assert both and both.job == theirs
    store.jobs.request(first.job, "cancel")
    assert claim(store) is None  # what is being cancelled still occupies it
    store.queue.finish(first, CANCELLED)
    third = claim(store)
    assert third and third.job == mine[1]
    assert store.queue.claim("me", devices=["unknown"], per_device=1, seconds=60) is None
    assert store.queue.claim("me", devices=[], per_device=1, seconds=60) is None


def test_starting_one_given_job(store: Store) -> None:
    store.devices.put(DEVICE)
    held = store.jobs.submit(JobSpec(model="ab" * 32), HERE, TOOLCHAIN, paused=True)[0]
    assert held.state is PAUSED and claim(store) is None
    assert store.queue.start(held.id, "cli", 60).holder == "cli"
    with pytest.raises(UserError) as caught:
        store.queue.start(held.id, "cli", 60)
    assert caught.value.code == "wrong-state"
    with pytest.raises(UserError) as caught:
        store.queue.start("none", "cli", 60)
    assert caught.value.code == "unknown-job"


def writes(store: Store, held: Claim) -> dict[str, Callable[[], object]]:
    """Every write that a driver may make."""
    trial, place = good(7, 1.0), {"device": HERE, "toolchain": TOOLCHAIN}
    return {
        "renew": lambda: store.queue.renew(held, 60, elapsed=99.0),
        "beat": lambda: store.queue.beat(held, 60, elapsed=99.0, device=HERE, what="x"),
        "progress": lambda: store.queue.progress(held, event=True, stage="search", best_seconds=99.0),
        "finish": lambda: store.queue.finish(held, SUCCEEDED, files={"plan.json": ("ab" * 32, 1, "application/json")}),
        "release": lambda: store.queue.release(held, reason="x"),
        "crashed": lambda: store.queue.crashed(held, "x", "y"),
        "take": lambda: store.turns.take(HERE, held, 60),
        "trial": lambda: store.trials.add(held.job, trial, **place, claim=held),
    }


def stale_because_taken_over(store: Store) -> Claim:
    held = started(store, GONE)
    assert store.queue.reclaim() == [(held.job, QUEUED)]
    assert store.queue.start(held.job, "me", 60).fence == held.fence + 1
    return held


def stale_because_reclaimed(store: Store) -> Claim:
    held = started(store, GONE)
    store.queue.reclaim()
    return held


def stale_because_ended(store: Store) -> Claim:
    held = started(store)
    store.queue.finish(held, FAILED, reason="x")
    return held


def stale_because_deleted(store: Store) -> Claim:
    held = stale_because_ended(store)
    store.jobs.delete(held.job)
    return held


def stale_because_of_another_holder(store: Store) -> Claim:
    return replace(started(store), holder="somebody else")


@pytest.mark.parametrize(
    "make",
    [
        stale_because_taken_over,
        stale_because_reclaimed,
        stale_because_ended,
        stale_because_deleted,
        stale_because_of_another_holder,
    ],
)
def test_a_stale_driver_changes_nothing(store: Store, make: Callable[[Store], Claim]) -> None:
    held = make(store)

    def everything() -> list[Any]:
        tables = ("jobs", "attempts", "events", "turns", "trials", "job_files")
        with store.database.read() as connection:
            return [connection.execute(text(f"SELECT * FROM {table}")).all() for table in tables]

    before = everything()
    for name, write in writes(store, held).items():
        with pytest.raises(StaleDriver) as caught:
            write()
        assert caught.value.code == "stale-driver" and isinstance(caught.value, InternalError), name
        assert everything() == before, name
    store.turns.release(HERE, held)
    assert everything() == before


def test_every_write_of_the_right_driver_goes_through(store: Store) -> None:
    for name in writes(store, Claim("", 0, "")):
        writes(store, started(store))[name]()


def test_a_lease_that_ran_out_still_holds_until_somebody_takes_the_job(store: Store) -> None:
    held = started(store, GONE)
    store.queue.progress(held, measured=1)
    assert store.queue.renew(held, 60) is None
    assert store.queue.reclaim() == []
    assert job_of(store, held.job).state is RUNNING


def test_leases_run_in_database_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held = started(store, 60)
    monkeypatch.setattr("time.time", lambda: 4e9)  # a client whose clock is decades ahead
    assert store.queue.reclaim() == []
    with store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET lease_until = lease_until - 61"))
    assert store.queue.reclaim() == [(held.job, QUEUED)]


@pytest.mark.parametrize("hours", [5, -5])
def test_when_the_databases_clock_jumps_only_dead_drivers_lose_their_jobs(store: Store, hours: int) -> None:
    other = replace(DEVICE, model="Other CPU")
    store.devices.put(other)
    alive = started(store, 60)
    dead = store.queue.start(store.jobs.submit(JobSpec(model="ab" * 32), other.fingerprint, TOOLCHAIN)[0].id, "x", 60)
    assert store.turns.take(other.fingerprint, dead, 60)
    assert store.queue.overdue() == {}
    with store.database.write() as connection:  # what was given before the jump, as the clock sees it now
        connection.execute(text("UPDATE jobs SET lease_until = lease_until - :jump"), {"jump": hours * 3600})
        connection.execute(text("UPDATE turns SET expires_at = expires_at - :jump"), {"jump": hours * 3600})
    overdue = store.queue.overdue()
    assert set(overdue) == {alive.job, dead.job}
    assert store.queue.renew(alive, 60) is None
    assert store.queue.reclaim(overdue) == [(dead.job, QUEUED)]
    assert store.queue.overdue() == {}
    successor = store.queue.start(dead.job, "y", 60)
    assert store.turns.take(other.fingerprint, successor, 60)  # nor is the device blocked for hours


def test_no_lease_is_longer_than_a_jump_can_be_told_by(store: Store) -> None:
    started(store, 10 * LONGEST)
    assert store.queue.overdue() == {}


def test_what_becomes_of_jobs_whose_lease_ran_out(store: Store) -> None:
    plain, pausing, cancelling, alive = (started(store, seconds) for seconds in (GONE, GONE, GONE, 60.0))
    store.jobs.request(pausing.job, "pause")
    store.jobs.request(cancelling.job, "cancel")
    assert dict(store.queue.reclaim()) == {plain.job: QUEUED, pausing.job: PAUSED, cancelling.job: CANCELLED}
    assert store.queue.reclaim() == []
    assert job_of(store, alive.job).state is RUNNING
    job = job_of(store, plain.job)
    assert job.reason and job.driver is None and job.attempts == 1
    assert [each.outcome for each in store.queue.attempts(plain.job)] == ["lost"]


def test_a_job_that_crashes_again_and_again_fails(store: Store) -> None:
    id = new_job(store)
    states = []
    for _ in range(LIMIT):
        held = claim(store)
        assert held and held.job == id
        states.append(store.queue.crashed(held, "The tuner died of signal 9.", "last \0 words"))
    assert states == [QUEUED] * (LIMIT - 1) + [FAILED]
    job = job_of(store, id)
    assert job.reason == "The tuner died of signal 9. That was so 5 times in a row."
    assert [(each.outcome, each.stderr) for each in store.queue.attempts(id)] == [("crashed", "last \0 words")] * LIMIT
    assert store.jobs.request(id, "retry").attempts == 0


def test_crashes_count_only_while_no_trial_is_made_between(store: Store) -> None:
    id = new_job(store)
    for number in range(6):
        held = claim(store)
        assert held
        store.trials.add(id, good(number, 1.0), device=HERE, toolchain=TOOLCHAIN, claim=held)
        assert store.queue.crashed(held, "died", limit=2) is QUEUED
        assert job_of(store, id).attempts == 1
    for expected in (FAILED,):  # the first without a trial is the second in a row
        held = claim(store)
        assert held and store.queue.crashed(held, "died", limit=2) is expected


def test_a_crash_ends_what_clients_wanted(store: Store) -> None:
    for action, state in (("pause", PAUSED), ("cancel", CANCELLED)):
        held = started(store)
        store.jobs.request(held.job, action)  # type: ignore[arg-type]
        assert store.queue.crashed(held, "died", "why") is state
        assert store.queue.attempts(held.job)[0].stderr == "why"
        assert (job_of(store, held.job).attempts, job_of(store, held.job).wanted) == (0, None)


def test_letting_go_is_no_crash(store: Store) -> None:
    for action, state in ((None, QUEUED), ("pause", PAUSED), ("cancel", CANCELLED)):
        held = started(store)
        if action:
            store.jobs.request(held.job, action)  # type: ignore[arg-type]
        assert store.queue.release(held, reason="The server stopped.") is state
        job = job_of(store, held.job)
        assert (job.state, job.attempts) == (state, 0)
        assert [each.outcome for each in store.queue.attempts(held.job)] == ["released"]
        assert action or job.reason == "The server stopped."


def test_progress_is_kept_and_told_in_full(store: Store) -> None:
    held = started(store)
    store.queue.progress(held, stage="search", message="trying", done=3, total=8, unit="trials", unoptimised_seconds=2)
    store.queue.progress(
        held, event=True, measured=3, failed=1, reused_trials=7, best_seconds=0.5, onnxruntime_seconds=0.7,
        elapsed=4.0, curve=[[0.5, 1, 0.7], [4.0, 3, 0.5]],
    )  # fmt: skip
    job = job_of(store, held.job)
    fields = {
        "stage": "search", "message": "trying", "done": 3.0, "total": 8.0, "unit": "trials", "measured": 3,
        "failed": 1, "reused_trials": 7, "best_seconds": 0.5, "onnxruntime_seconds": 0.7, "unoptimised_seconds": 2.0,
        "elapsed": 4.0,
    }  # fmt: skip
    assert {name: getattr(job, name) for name in fields} == fields
    assert job.curve == [[0.5, 1, 0.7], [4.0, 3, 0.5]]
    last = store.events.after(held.job)[-1]
    assert (last.kind, last.payload) == ("progress", fields)
    store.queue.progress(held, event=True)
    assert store.events.after(held.job)[-1].payload == fields


def test_a_job_is_as_much_faster_as_its_latencies_say_until_its_report_says_it(store: Store) -> None:
    held = started(store)
    assert job_of(store, held.job).over_onnxruntime is None
    store.queue.progress(held, best_seconds=0.5, onnxruntime_seconds=0.75)
    assert job_of(store, held.job).over_onnxruntime == 1.5
    store.queue.finish(held, SUCCEEDED, report={"speedup": {"over_onnxruntime": 1.25}}, best_seconds=0.5)
    assert job_of(store, held.job).over_onnxruntime == store.jobs.list().items[0].over_onnxruntime == 1.25
    store.jobs.request(held.job, "retry")
    assert job_of(store, held.job).over_onnxruntime == 1.5  # of what it finds anew


def test_a_result_is_kept_with_its_files(store: Store) -> None:
    held = started(store)
    files = {"plan.json": ("ab" * 32, 10, "application/json"), "artifact.zip": ("cd" * 32, 2**40, "application/zip")}
    assert store.queue.finish(held, SUCCEEDED, report={"n": 1}, best_seconds=0.25, files=files) is SUCCEEDED
    job = job_of(store, held.job)
    assert (job.report, job.best_seconds, job.message, job.driver) == ({"n": 1}, 0.25, None, None)
    found = store.jobs.files(held.job)
    assert {name: (file.sha256, file.size, file.media_type) for name, file in found.items()} == files
    # A later run's files take the place of all of these; a run without any leaves them.
    store.jobs.request(held.job, "retry")
    store.queue.finish(store.queue.start(held.job, "me", 60), FAILED, reason="x")
    assert store.jobs.files(held.job) == found
    store.jobs.request(held.job, "retry")
    last = {"report.json": ("ef" * 32, 1, "application/json")}
    store.queue.finish(store.queue.start(held.job, "me", 60), SUCCEEDED, files=last)
    assert list(store.jobs.files(held.job)) == ["report.json"]
    assert job_of(store, held.job).report == {"n": 1}


def test_the_database_itself_knows_one_driver_per_job(store: Store) -> None:
    held = started(store)
    for statement in (
        "INSERT INTO attempts (job, fence, holder, started_at, last_trial)"
        f" VALUES ('{held.job}', 99, 'x', '2026-01-01 00:00:00', 0)",
        "UPDATE jobs SET driver = NULL",
        "UPDATE jobs SET state = 'QUEUED'",
        "UPDATE jobs SET wanted = 'x'",
        "UPDATE jobs SET unit = 'x'",
    ):
        with pytest.raises(InternalError) as caught, store.database.write() as connection:
            connection.execute(text(statement))
        assert caught.value.code == "database-invariant", statement


def test_many_threads_never_claim_a_job_twice(store: Store) -> None:
    jobs = {new_job(store) for _ in range(24)}
    taken: list[Claim] = []
    most: list[int] = []

    def work(name: str) -> None:
        while True:
            held = claim(store, name, per_device=3)
            if held is None:
                if not store.jobs.counts()[QUEUED]:
                    return
                continue
            taken.append(held)
            most.append(store.jobs.counts()[RUNNING])
            store.queue.progress(held, event=True, measured=1)
            store.queue.finish(held, SUCCEEDED)

    together(*(partial(work, f"worker {number}") for number in range(6)))
    assert len(taken) == len(jobs) and {held.job for held in taken} == jobs
    assert max(most) <= 3
    assert all(len(store.queue.attempts(job)) == 1 for job in jobs)
    assert [each.seq for each in store.events.after(taken[0].job)] == [1, 2, 3, 4]


CLAIMER = """
import sys
from db.store import Store
from tuner.types import JobState
with Store.open(sys.argv[1]) as store:
    sys.stdin.read()
    while True:
        held = store.queue.claim(sys.argv[2], devices=[sys.argv[3]], per_device=2, seconds=60)
        if held is None:
            if not store.jobs.counts()[JobState.QUEUED]:
                break
            continue
        print(held.job, flush=True)
        store.queue.finish(held, JobState.SUCCEEDED)
"""


def test_many_processes_never_claim_a_job_twice(url: str) -> None:
    with Store.open(url) as store:
        jobs = [new_job(store) for _ in range(30)]
        claimers = [
            subprocess.Popen(
                [sys.executable, "-c", CLAIMER, url, f"server {number}", HERE],
                cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for number in range(3)
        ]  # fmt: skip
        outputs = [claimer.communicate(timeout=120) for claimer in claimers]
        assert [claimer.returncode for claimer in claimers] == [0] * 3, outputs
        assert sorted(line for output, _ in outputs for line in output.split()) == sorted(jobs)
        assert store.jobs.counts()[SUCCEEDED] == 30


@contextmanager
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_requests_reclaims_and_drivers_may_come_at_once(store: Store) -> None:
    """Whatever the order, a job ends in one state, with one open attempt at most and events without gaps."""
    id = new_job(store)

    def noise(action: Any) -> None:
        for _ in range(15):
            try:
                store.jobs.request(id, action)
            except UserError as error:
                assert error.code == "wrong-state"

    def drive() -> None:
        for number in range(15):
            held = claim(store, seconds=GONE if number % 3 else 60)
            if held is None:
                continue
            try:
                store.queue.progress(held, event=True, measured=number)
                store.queue.release(held)
            except StaleDriver:
                pass

    def reclaim() -> None:
        for _ in range(15):
            store.queue.reclaim(limit=1000)

    with switching():
        together(*(partial(noise, action) for action in ("pause", "resume", "retry")), drive, drive, reclaim)
    events = store.events.after(id)
    assert [each.seq for each in events] == list(range(1, len(events) + 1))
    job = job_of(store, id)
    assert job.fence == len(store.queue.attempts(id))
    still = [each for each in store.queue.attempts(id) if each.ended_at is None]
    assert len(still) == (job.state in {RUNNING, CANCELLING})


def test_a_claim_from_a_long_queue_sorts_nothing(store: Store) -> None:
    new_job(store)
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT jobs.id, jobs.priority"):
            with store.database.read() as connection:
                how = "EXPLAIN QUERY PLAN" if store.database.sqlite else "EXPLAIN"
                if not store.database.sqlite:
                    connection.execute(text("SET LOCAL enable_seqscan = off"))
                sent.extend(str(row) for row in connection.exec_driver_sql(f"{how} {statement}", parameters))

    event.listen(store.database.engine, "before_cursor_execute", note)
    assert claim(store)
    event.remove(store.database.engine, "before_cursor_execute", note)
    plan = "\n".join(sent)
    assert "ix_jobs_device_state_priority_created_at_id" in plan, plan
    assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan


def test_a_dispatcher_learns_in_one_word_that_nothing_is_wanted_of_its_drivers(store: Store) -> None:
    held = [started(store), started(store)]
    store.queue.start(new_job(store), "another", 60)
    assert store.queue.undisturbed("me", held)
    assert not store.queue.undisturbed("me", held[:1])
    store.jobs.request(held[0].job, "pause")
    assert not store.queue.undisturbed("me", held)
    assert store.queue.wanted("me") == {held[0]: "pause", held[1]: None}
    store.jobs.request(held[0].job, "resume")
    assert store.queue.undisturbed("me", held)
    store.queue.finish(held[1], FAILED, reason="x")
    assert not store.queue.undisturbed("me", held)
    assert store.queue.undisturbed("me", held[:1])
    assert store.queue.undisturbed("nobody", [])


def test_jobs_that_queue_for_a_device_that_is_gone_say_so_until_it_is_back(store: Store) -> None:
    id, running = new_job(store), started(store)
    for offered, said in ((0.0, "waiting for device"), (60.0, None), (GONE, "waiting for device")):
        store.devices.offer(HERE, "server", offered)
        for _ in range(2):
            store.queue.mark_waiting("waiting for device")
        assert (job_of(store, id).message, job_of(store, id).state) == (said, QUEUED)
    assert job_of(store, running.job).message is None  # its driver speaks for itself
    held = store.queue.start(id, "me", 60)
    assert job_of(store, held.job).message is None
