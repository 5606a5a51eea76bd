"""Trials by the ten thousand, written straight into the server's database: nobody waits for as many real ones."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from db.rows import trial_row, workload_row
from db.schema import jobs, trials, workloads
from db.store import Store
from tuner.types import PROTOCOL, Candidate, Failure, FailureKind, JobSpec, JobState, Trial, digest

CHUNK = 5000  # rows in one transaction
WORKLOADS = 50


def add_trials(store: Store, job: str, number: int) -> None:
    """Give a job so many more trials: fifty workloads, one in twenty failed, times spread as in a real search."""
    known = store.jobs.get(job)
    assert known is not None
    rng, moment = random.Random(0), datetime.now(UTC)
    place = {"job": job, "device": known.device, "toolchain": known.toolchain, "protocol": PROTOCOL}
    candidates = [_candidate(n) for n in range(WORKLOADS)]
    with store.database.write() as connection:
        for n, candidate in enumerate(candidates):
            store.database.insert_missing(connection, workloads, workload_row(candidate, f"Conv 3x3 {n}", moment))
    for first in range(0, number, CHUNK):
        rows = []
        for n in range(first, min(first + CHUNK, number)):
            c = candidates[n % WORKLOADS]
            candidate = Candidate(**c.to_json() | {"knobs": {"ob": 16, "reg_n": n}})
            best = 1e-4 * rng.lognormvariate(0.5, 0.4)
            failed = n % 20 == 19
            trial = Trial(
                candidate,
                samples=() if failed else tuple(best * rng.uniform(1, 1.1) for _ in range(9)),
                failure=Failure(FailureKind.TIMEOUT, "it did not end within 10 s", "") if failed else None,
                build_seconds=0.4, measure_seconds=0.1, predicted=best * rng.lognormvariate(0, 0.2),
            )  # fmt: skip
            rows.append(trial_row(trial) | place | {"created_at": moment + timedelta(milliseconds=n)})
        with store.database.write() as connection:
            connection.execute(trials.insert(), rows)
    with store.database.write() as connection:
        count = {"measured": jobs.c.measured + number, "failed": jobs.c.failed + number // 20}
        connection.execute(update(jobs).where(jobs.c.id == job).values(**count))


def ended_job(store: Store, spec: JobSpec, device: str, toolchain: str, number: int) -> str:
    """A cancelled job with so many trials."""
    job, _ = store.jobs.submit(spec, device, toolchain, model_name="seeded", device_name="cpu", paused=True)
    claim = store.queue.start(job.id, "bench", 60.0)
    store.queue.finish(claim, JobState.CANCELLED, reason="seeded by the bench")
    add_trials(store, job.id, number)
    return job.id


def _candidate(number: int) -> Candidate:
    canonical = {"layers": [{"op": "Conv"}], "bench": number}
    return Candidate(
        workload=canonical, workload_hash=digest(canonical), layouts={"i0": "NCHW16c", "t0": "NCHW16c"},
        template="conv2d", template_version=1, knobs={}, cores=1 + number % 2,
    )  # fmt: skip
