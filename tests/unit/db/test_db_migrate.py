"""A database of the first schema, with data, opened by today's program: nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from alembic import command
from db_values import DEVICE, TOOLCHAIN, bad, candidate, good
from sqlalchemy import text

from db.engine import Database
from db.migrate import alembic_config
from db.queue import Claim
from db.rows import trial_row
from db.store import Store
from db.urls import parse_url
from tuner.errors import InternalError
from tuner.types import PROTOCOL, FailureKind, JobSpec, JobState, Purpose, Trial

MOMENT = "2026-01-02 03:04:05.000006"
REPORT = {
    "model": {"name": "resnet \0 50"},
    "seconds": {"total": 12.5},
    "trials": {"reused": 4},
    "latency_ms": {"unoptimised": {"median": 80.0}, "onnxruntime": None},
    "speedup": {"over_onnxruntime": 1.5},
}
JOBS = {  # id -> state, finished, report
    "done": ("SUCCEEDED", MOMENT, REPORT),
    "odd": ("CANCELLED", MOMENT, {"model": "no object", "seconds": [], "trials": {"reused": "many"}, "speedup": 3}),
    "waits": ("QUEUED", None, None),
    "runs": ("RUNNING", None, None),
    "stops": ("CANCELLING", None, None),
}
PLANS = {"odd": {"version": 1, "stages": [float("inf")]}}
TRIALS = [
    ("done", good(1, 1.0)),
    ("done", good(1, 2.0)),  # the same again: today's schema allows it once a job
    ("done", bad(2, FailureKind.WRONG)),
    ("done", bad(2, FailureKind.WRONG)),
    ("done", bad(3, FailureKind.TIMEOUT)),
    ("done", bad(3, FailureKind.TIMEOUT)),  # allowed: its reason passes
    ("done", good(3, 3.0)),
    ("done", Trial(candidate(1), purpose=Purpose.FINAL, samples=(4.0,))),  # allowed: measured again on purpose
    ("runs", good(1, 5.0)),
    (None, good(1, 6.0)),
    (None, good(1, 7.0)),
]


@pytest.fixture
def old(url: str) -> Iterator[str]:
    """The URL of a database as the first version left it."""
    database = Database(parse_url(url))
    database.use_wal()
    with database.write() as connection:
        command.upgrade(alembic_config(connection), "0001")
    spec = JobSpec(model="ab" * 32)
    with database.write() as connection:

        def insert(table: str, **row: Any) -> None:
            values = {
                name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in row.items()
            }
            names = ", ".join(values)
            marks = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)

        insert("models", sha256="ab" * 32, name="resnet50", layers=122, macs=2**40, bytes=100, created_at=MOMENT)
        insert(
            "devices", fingerprint=DEVICE.fingerprint, name="cpu", spec=DEVICE.to_json(), peak_flops=5e11,
            first_seen_at=MOMENT, last_seen_at=MOMENT,
        )  # fmt: skip
        for id, (state, finished, report) in JOBS.items():
            insert(
                "jobs", id=id, model=spec.model, spec=replace(spec, plan=PLANS.get(id)).to_json(),
                question=spec.question, state=state, stage="",
                device=DEVICE.fingerprint, toolchain=TOOLCHAIN, created_at=MOMENT, finished_at=finished, report=report,
                best_seconds=0.04 if report else None,
            )  # fmt: skip
        workload = candidate()
        insert("workloads", hash=workload.workload_hash, canonical=workload.workload, summary="x", created_at=MOMENT)
        for job, trial in TRIALS:
            later = {"predicted", "calibration", "drift"}
            row = {name: value for name, value in trial_row(trial).items() if name not in later}
            words = {name: json.dumps(row.pop(name)) for name in ("failure_message", "failure_stderr") if row[name]}
            insert(
                "trials", job=job, device=DEVICE.fingerprint, toolchain=TOOLCHAIN, protocol=PROTOCOL, created_at=MOMENT,
                **row | words,
            )  # fmt: skip
        insert("events", job="done", seq=1, kind="x", payload={"n": 1}, created_at=MOMENT)
    database.close()
    yield url


def test_everything_of_an_old_database_is_there(old: str) -> None:
    with Store.open(old) as store:
        job = store.jobs.get("done")
        assert job and job.report == REPORT and job.spec == JobSpec(model="ab" * 32)
        assert (job.state, job.best_seconds, job.device_name, job.model_name) == (
            JobState.SUCCEEDED, 0.04, "cpu", "resnet  50",
        )  # fmt: skip
        assert (job.elapsed, job.reused_trials, job.measured, job.failed) == (12.5, 4, 8, 4)
        assert (job.unoptimised_seconds, job.onnxruntime_seconds, job.paired) == (0.08, None, 1.5)
        assert (job.curve, job.unit, job.priority, job.attempts, job.reused) == ([], "share", 0, 0, False)
        odd = store.jobs.get("odd")
        assert odd and (odd.spec.plan, odd.engine) == (PLANS["odd"], "")
        assert all(each.spec.plan is None for each in store.jobs.list().items)
        assert odd and (odd.model_name, odd.elapsed, odd.reused_trials, odd.paired) == ("", 0.0, 0, None)
        assert len(store.jobs.list().items) == len(JOBS)
        assert [(event.seq, event.payload) for event in store.events.after("done")] == [(1, {"n": 1})]
        model = store.models.get("ab" * 32)
        assert model and (model.name, model.macs, model.inputs, model.file) == ("resnet50", 2**40, (), False)
        device = store.devices.get(DEVICE.fingerprint)
        assert device and (device.peak_flops, device.server, device.available) == (5e11, None, False)


def test_no_old_trial_is_lost_and_no_job_keeps_one_twice(old: str) -> None:
    with Store.open(old) as store:
        kept = [each.trial for each in store.trials.page("done")]
        assert kept == [TRIALS[number][1] for number in (0, 2, 4, 5, 6, 7)]
        every = store.trials.of_records([candidate().record_key], device=DEVICE.fingerprint, toolchain=TOOLCHAIN)
        assert every == [trial for _, trial in TRIALS]
        with pytest.raises(InternalError) as caught:
            store.trials.add("done", good(1, 1.0), device=DEVICE.fingerprint, toolchain=TOOLCHAIN)
        assert caught.value.code == "database-invariant"


def test_records_of_an_old_database_are_found(old: str) -> None:
    place = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN}
    with Store.open(old) as store:
        (found,) = store.records.search(precision="fp32", device="cpu").items
        assert (found.record.candidate, found.record.seconds, found.job) == (candidate(3), 3.0, "done")
        assert store.records.known_questions([[candidate().record_key], ["none"]], **place) == 1


def test_old_jobs_are_worked_on_again_if_they_were_not_ended(old: str) -> None:
    with Store.open(old) as store:
        for id in ("runs", "stops"):
            job = store.jobs.get(id)
            assert job and job.state is JobState.FAILED and job.reason and job.finished_at
        assert store.jobs.request("runs", "retry").state is JobState.QUEUED
        claims = [store.queue.claim("me", devices=[DEVICE.fingerprint], per_device=2, seconds=60) for _ in range(3)]
        assert claims == [Claim("runs", 1, "me"), Claim("waits", 1, "me"), None]
