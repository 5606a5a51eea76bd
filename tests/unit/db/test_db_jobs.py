"""Jobs as clients see them: submitting once, lists and their pages, answers, deletion, retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from db_values import DEVICE, TOOLCHAIN, candidate, good, new_job, put, together
from sqlalchemy import event, insert, text, update

from db.columns import now
from db.jobs import ORDERS, Job
from db.paging import decode, encode
from db.schema import jobs as jobs_table
from db.store import Store
from tuner.errors import UserError
from tuner.types import JobSpec, JobState

HERE = DEVICE.fingerprint
SPEC = JobSpec(model="ab" * 32)


def submit(store: Store, spec: JobSpec = SPEC, **more: Any) -> tuple[Job, bool]:
    store.devices.put(DEVICE)
    return store.jobs.submit(spec, HERE, TOOLCHAIN, **more)


def ended(store: Store, state: JobState = JobState.SUCCEEDED, **more: Any) -> Job:
    held = store.queue.start(new_job(store), "me", 60)
    store.queue.finish(held, state, **more)  # type: ignore[arg-type]
    job = store.jobs.get(held.job)
    assert job is not None
    return job


def refused(code: str, call: Any) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == code


def pages(store: Store, limit: int, **query: Any) -> list[str]:
    """The ids of all pages, one after the other."""
    found: list[str] = []
    cursor = None
    while True:
        page = store.jobs.list(limit=limit, cursor=cursor, **query)
        assert len(page.items) <= limit
        found += [job.id for job in page.items]
        cursor = page.next
        if cursor is None:
            return found
        assert len(page.items) == limit


def test_a_new_job_carries_what_was_said_and_the_names_that_are_known(store: Store) -> None:
    store.models.put(SPEC.model, name="resnet", layers=1, macs=1, size=1)
    job, new = submit(store, priority=3, notes="said \0 \udc80")
    assert new and (job.state, job.priority, job.notes) == (JobState.QUEUED, 3, "said \0 \udc80")
    assert (job.model, job.model_name, job.device, job.device_name) == (SPEC.model, "resnet", HERE, "cpu")
    assert (job.measured, job.done, job.total, job.curve, job.reused) == (0, 0.0, None, [], False)
    assert job == store.jobs.get(job.id)
    other, _ = submit(store, model_name="mine \0", device_name="box")
    assert (other.model_name, other.device_name) == ("mine \ufffd", "box")
    assert [event.payload["state"] for event in store.events.after(job.id)] == ["QUEUED"]


def test_the_same_request_with_the_same_key_makes_one_job(store: Store) -> None:
    key = "key \0 " + "x" * 5000
    first, new = submit(store, idempotency=(key, "hash"))
    again, second = submit(store, idempotency=(key, "hash"))
    assert (new, second) == (True, False) and again == first
    refused("idempotency-conflict", lambda: submit(store, idempotency=(key, "other")))
    assert submit(store, idempotency=("other", "hash"))[1]
    assert submit(store)[1] and submit(store)[1]
    # The key is free again once its job is deleted.
    store.jobs.request(first.id, "cancel")
    store.jobs.delete(first.id)
    assert submit(store, idempotency=(key, "other"))[1]


def test_of_equal_requests_at_once_one_makes_the_job(store: Store) -> None:
    store.devices.put(DEVICE)
    found: list[tuple[str, str, bool]] = []

    def ask() -> None:
        for key in ("a", "b", "c"):
            job, new = store.jobs.submit(SPEC, HERE, TOOLCHAIN, idempotency=(key, "hash"))
            found.append((key, job.id, new))

    together(*[ask] * 8)
    assert len(found) == 24
    assert len({(key, id) for key, id, _ in found}) == 3
    assert sum(new for _, _, new in found) == 3
    assert store.jobs.counts()[JobState.QUEUED] == 3


def test_a_known_answer_is_given_at_once(store: Store) -> None:
    held = store.queue.start(new_job(store), "me", 60)
    store.queue.progress(
        held, stage="export", done=8, total=8, unit="trials", measured=8, failed=2, reused_trials=3, elapsed=7.0,
        unoptimised_seconds=0.9, onnxruntime_seconds=0.7, curve=[[1, 1, 0.5]],
    )  # fmt: skip
    files, report = {"plan.json": ("ab" * 32, 10, "application/json")}, {"speedup": {"over_onnxruntime": 2.5}}
    store.queue.finish(held, JobState.SUCCEEDED, report=report, best_seconds=0.25, files=files)
    answer = store.jobs.list().items[0]
    assert answer.report is None
    job, new = submit(store, answer=answer)
    assert new and (job.state, job.reused, job.answered_by) == (JobState.SUCCEEDED, True, held.job)
    assert (job.report, job.best_seconds, job.over_onnxruntime, job.curve) == (report, 0.25, 2.5, [[1, 1, 0.5]])
    assert (job.unoptimised_seconds, job.onnxruntime_seconds, job.done, job.total) == (0.9, 0.7, 8, 8)
    assert (job.measured, job.failed, job.reused_trials, job.elapsed) == (0, 0, 11, 0.0)
    assert job.started_at and job.finished_at
    assert store.jobs.files(job.id) == store.jobs.files(held.job) != {}
    assert [event.payload["state"] for event in store.events.after(job.id)] == ["SUCCEEDED"]
    # Retrying it works for real.
    again = store.jobs.request(job.id, "retry")
    assert (again.state, again.reused, again.answered_by) == (JobState.QUEUED, False, None)


def test_an_answer_that_is_gone_is_none(store: Store) -> None:
    answer = ended(store)
    store.jobs.delete(answer.id)
    job, new = submit(store, answer=answer)
    assert new and (job.state, job.reused, job.answered_by) == (JobState.QUEUED, False, None)
    failed = ended(store, JobState.FAILED)
    assert submit(store, answer=failed)[0].state is JobState.QUEUED


def test_lists_are_filtered_by_all_that_is_given(store: Store) -> None:
    first, _ = submit(store, model_name="resnet", device_name="box")
    second, _ = submit(store, JobSpec(model="cd" * 32), model_name="bert")
    third = ended(store, report={"n": 1})

    def found(**query: Any) -> list[str]:
        return [job.id for job in store.jobs.list(order="created_at", **query).items]

    every = [first.id, second.id, third.id]
    assert found() == every
    assert found(state=JobState.QUEUED) == every[:2]
    assert found(state={JobState.QUEUED, JobState.SUCCEEDED}) == every
    assert found(state=[JobState.SUCCEEDED]) == every[2:]
    assert found(state=[]) == []
    assert found(device=HERE) == every and found(device="box") == every[:1] and found(device="cpu") == every[1:]
    assert found(model="cd" * 32) == found(model="cdcd") == found(model="bert") == every[1:2]
    assert found(model="cd") == [] and found(model="ab" * 32) == [first.id, third.id]
    assert found(model="resnet", state=JobState.SUCCEEDED) == []
    assert found(question=first.question) == [first.id, third.id]
    assert found(created_after=first.created_at) == every[1:]
    assert found(created_before=third.created_at) == every[:2]
    assert found(created_after=first.created_at, created_before=third.created_at, device="cpu") == [second.id]
    assert store.jobs.list(state=JobState.SUCCEEDED).items[0].report is None
    for hostile in ("\0", "\udc80", "%", "_", "'", "x" * 100_000):
        assert found(model=hostile) == found(device=hostile) == found(question=hostile) == []
        assert store.jobs.get(hostile) is None


@pytest.mark.parametrize("order", ORDERS)
def test_pages_hold_every_job_once_also_where_jobs_tie(store: Store, order: str) -> None:
    ids = [submit(store, priority=number % 3)[0].id for number in range(23)]
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    with store.database.write() as connection:  # ten jobs of one moment
        connection.execute(update(jobs_table).where(jobs_table.c.id.in_(ids[5:15])).values(created_at=moment))
    rows = {job.id: job for job in store.jobs.list(limit=100).items}

    def rank(id: str) -> tuple[Any, ...]:
        job = rows[id]
        return (*([job.priority] if "priority" in order else []), job.created_at, job.id)

    expected = sorted(ids, key=rank, reverse=order.startswith("-"))
    for limit in (1, 4, 23, 24):
        assert pages(store, limit, order=order) == expected
        assert pages(store, limit, order=order, device="cpu") == expected
        assert pages(store, limit, order=order, state=list(JobState)) == expected


def test_pages_stay_in_step_while_jobs_are_added_and_change(store: Store) -> None:
    ids = [new_job(store) for _ in range(9)]
    first = store.jobs.list(limit=3)
    for _ in range(4):
        new_job(store)
    store.jobs.request(ids[4], "cancel")
    store.jobs.delete(ids[4])
    second = store.jobs.list(limit=3, cursor=first.next)
    third = store.jobs.list(limit=3, cursor=second.next)
    assert [job.id for page in (first, second, third) for job in page.items] == [*ids[:4:-1], *ids[3::-1]]
    assert third.next is None


def test_a_cursor_that_is_none_is_refused(store: Store) -> None:
    for _ in range(3):
        new_job(store)
    cursor = store.jobs.list(limit=1).next
    assert cursor is not None
    refused("bad-cursor", lambda: store.jobs.list(order="created_at", cursor=cursor))
    name = "jobs -created_at"
    stamp = now().isoformat()
    for bad in (
        "", "x", "=", cursor[:-3], cursor + "x", "é", "\0", "a" * 100_000, encode(name), encode(name, 1, 2),
        encode(name, stamp), encode(name, "2026-01-01T00:00:00", "x"), encode(name, stamp, None),
        encode("models -created_at", stamp, "x"), "W10", "bnVsbA", "W" * 1996, "AAAA" + cursor,
    ):  # fmt: skip
        refused("bad-cursor", lambda bad=bad: store.jobs.list(cursor=bad))
    refused("bad-order", lambda: store.jobs.list(order="reason"))
    for number in (1 << 63, 10**400):
        priority = encode("jobs priority", number, stamp, "x")
        refused("bad-cursor", lambda cursor=priority: store.jobs.list(order="priority", cursor=cursor))
    # Well made, though no job is there: simply what follows.
    assert store.jobs.list(cursor=encode(name, now(), "\0")).items


def test_cursors_give_back_what_they_were_made_of() -> None:
    moment = now()
    position = (moment, "é\0", -5, 0.1, None)
    kinds = (datetime, str, int, float, float, type(None))
    assert decode("x", encode("x", *position), *kinds) == position
    refused("bad-cursor", lambda: decode("x", encode("x", float("inf")), float))
    refused("bad-cursor", lambda: decode("x", encode("x", True), int))
    refused("bad-cursor", lambda: decode("x", encode("x", None), int))


def test_jobs_are_counted_by_state(store: Store) -> None:
    assert store.jobs.counts() == dict.fromkeys(JobState, 0)
    new_job(store), new_job(store), ended(store)
    assert store.jobs.counts() == dict.fromkeys(JobState, 0) | {JobState.QUEUED: 2, JobState.SUCCEEDED: 1}


def test_a_deleted_job_is_forgotten_but_its_trials_are_not(store: Store) -> None:
    held = store.queue.start(new_job(store), "me", 60)
    put(store, held.job, good(1, 1.0))
    refused("wrong-state", lambda: store.jobs.delete(held.job))
    store.queue.finish(held, JobState.SUCCEEDED, files={"plan.json": ("ab" * 32, 1, "application/json")})
    other = ended(store)
    store.jobs.delete(held.job)
    assert store.jobs.get(held.job) is None and store.jobs.get(other.id) == other
    assert store.events.after(held.job) == store.queue.attempts(held.job) == []
    assert store.jobs.files(held.job) == {}
    assert store.trials.page(held.job) == []
    assert candidate(1).record_key in store.records.best([candidate(1).record_key], device=HERE, toolchain=TOOLCHAIN)
    for call in (store.jobs.delete, lambda id: store.jobs.request(id, "cancel")):
        refused("unknown-job", lambda call=call: call(held.job))


def test_a_job_of_many_trials_is_deleted_in_portions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.removal._PORTION", 3)
    for trials in (2, 3, 7):
        held = store.queue.start(new_job(store), "me", 60)
        put(store, held.job, *(good(number, 1.0) for number in range(trials)))
        store.queue.finish(held, JobState.FAILED)
        store.jobs.delete(held.job)
        assert store.jobs.get(held.job) is None
    assert len(store.trials.samples(HERE, TOOLCHAIN)) == 12


def test_retention_deletes_what_ended_long_ago(store: Store) -> None:
    old = [ended(store, state).id for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)]
    waiting, fresh = new_job(store), ended(store).id
    with store.database.write() as connection:
        long_ago = update(jobs_table).values(created_at=now() - timedelta(days=40))
        connection.execute(long_ago)
        for age, id in enumerate(old):
            ending = update(jobs_table).where(jobs_table.c.id == id)
            connection.execute(ending.values(finished_at=now() - timedelta(days=30 + age)))
    assert store.jobs.expire(timedelta(days=33)) == 0
    assert store.jobs.expire(timedelta(days=29), keep=2) == 2  # the fresh one and the youngest old one
    assert {job.id for job in store.jobs.list().items} == {waiting, fresh, old[0]}
    assert store.jobs.expire(timedelta(days=29), keep=0) == 1
    assert {job.id for job in store.jobs.list().items} == {waiting, fresh}


@pytest.fixture
def many(store: Store) -> Store:
    """20,000 jobs, nearly all of them succeeded on one device."""
    new_job(store)
    states = ["SUCCEEDED"] * 97 + ["QUEUED", "RUNNING", "FAILED"]
    moment = now()
    rows = []
    for number in range(20_000):
        state = states[number % 100]
        rows.append({
            "id": f"{number:016x}", "model": f"{number % 50:064x}", "model_name": f"m{number % 50}", "device": HERE,
            "device_name": "cpu", "spec": SPEC.to_json(), "question": f"{number % 5000:064x}", "toolchain": TOOLCHAIN,
            "state": state, "stage": "", "priority": number % 2, "created_at": moment + timedelta(seconds=number),
            "finished_at": moment if state in {"SUCCEEDED", "FAILED"} else None,
        })  # fmt: skip
    with store.database.write() as connection:
        connection.execute(insert(jobs_table), rows)
    if not store.database.sqlite:  # PostgreSQL keeps statistics by itself, if not at once; SQLite has to do without
        with store.database.write() as connection:
            connection.execute(text("ANALYZE"))
    return store


def test_lists_of_many_jobs_read_little_more_than_their_page(many: Store) -> None:
    """Counted in rows that the database touches, not in seconds."""
    queries: list[dict[str, Any]] = [
        {},
        {"order": "created_at"},
        {"order": "-priority"},
        {"state": JobState.QUEUED},
        {"state": [JobState.SUCCEEDED, JobState.FAILED]},
        {"device": "cpu"},
        {"device": HERE},
        {"device": "cpu", "state": JobState.RUNNING},
        {"model": f"{7:064x}"},
        {"model": "m7"},
        {"model": "m7", "state": JobState.SUCCEEDED},
        {"question": f"{7:064x}"},
        {"created_before": now() + timedelta(seconds=9000)},
    ]
    for query in queries:
        steps = _steps(many, lambda query=query: many.jobs.list(limit=20, **query))
        # A filter's few hundred jobs may be read and sorted where that is cheaper; never the 20,000.
        assert steps < 40_000, (query, steps)
        first = many.jobs.list(limit=20, **query)
        if first.next:
            assert len(many.jobs.list(limit=20, cursor=first.next, **query).items) > 0


def _steps(store: Store, call: Any) -> int:
    """Instructions of SQLite's virtual machine, or 100 per row that PostgreSQL expects to read."""
    if store.database.sqlite:
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        with store.database.engine.connect() as connection:
            raw = connection.connection.driver_connection
            raw.set_progress_handler(tick, 100)
        try:
            call()
        finally:
            raw.set_progress_handler(None, 0)
        return count * 100
    total = 0.0

    def cost(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        nonlocal total
        if "FROM jobs" in statement and not statement.startswith("EXPLAIN"):
            with store.database.engine.connect() as other:
                plan = other.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar()
                total += plan[0]["Plan"]["Total Cost"]

    event.listen(store.database.engine, "before_cursor_execute", cost)
    try:
        call()
    finally:
        event.remove(store.database.engine, "before_cursor_execute", cost)
    return round(total * 100)
