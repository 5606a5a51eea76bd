"""What a job is once stored: the value that stores give back, and how it is made of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from db.engine import AnyRow
from db.schema import jobs
from tuner.types import JobSpec, JobState

# Never read back: what only guards invariants.
_INTERNAL = {"idempotency_key", "request_hash", "lease_until", "pausable", "deleted"}
FULL = [column for column in jobs.c if column.name not in _INTERNAL]
LIGHT = [column for column in FULL if column.name not in {"report", "plan"}]  # for lists: these are large
# A job whose deletion has begun is none any more.
THERE = ~jobs.c.deleted


@dataclass(frozen=True)
class Job:
    """One JobSpec being worked on, or finished. Times are UTC."""

    id: str
    spec: JobSpec  # without its plan in lists, which do not load it
    question: str  # JobSpec.question: equal ones have equal answers
    model: str  # SHA-256
    model_name: str
    device: str  # fingerprint
    device_name: str
    toolchain: str
    engine: str  # tuner.versions.ENGINE of its last run; "" before it runs
    state: JobState
    stage: str  # a tuner.events.Stage; "" before it runs
    message: str | None  # what it does now, in plain words
    reason: str | None  # why it is in this state
    wanted: str | None  # "cancel" or "pause": asked of its driver, not done yet
    done: float  # progress, in units
    total: float | None  # None while unknown
    unit: str  # "trials", "seconds" or "share"
    measured: int  # trials, failures included
    failed: int  # trials
    reused_trials: int  # answered by stored records
    best_seconds: float | None  # best latency of the whole model so far
    onnxruntime_seconds: float | None  # ONNX Runtime's latency
    unoptimised_seconds: float | None  # the baseline of that name
    paired: float | None  # over_onnxruntime of its report, which compares within rounds
    elapsed: float  # seconds worked so far; queue and pauses excluded
    curve: list[list[float]]  # [elapsed, trials, best_seconds], few: see tuner.events.Curve
    reused: bool  # answered from the store at once
    answered_by: str | None  # id of the job whose trials its answer stands on
    priority: int  # higher first
    notes: str | None  # the user's own words
    retries: bool  # its next run first repeats trials that failed for a passing reason
    fence: int  # number of its newest driver
    driver: str | None  # who works on it
    attempts: int  # runs that ended badly, in a row
    created_at: datetime
    started_at: datetime | None  # first time RUNNING
    finished_at: datetime | None  # set exactly while the state is an end state
    report: Mapping[str, Any] | None  # None also in lists, which do not load it

    @property
    def over_onnxruntime(self) -> float | None:
        """How many times faster than ONNX Runtime: its report's answer, before it has ended that of the latencies."""
        if self.finished_at is not None and self.paired is not None:
            return self.paired
        return self.onnxruntime_seconds / self.best_seconds if self.onnxruntime_seconds and self.best_seconds else None


@dataclass(frozen=True)
class File:
    """Something a job left for download; its bytes are a blob."""

    name: str  # "artifact.zip"
    sha256: str
    size: int  # bytes
    media_type: str


def to_job(row: AnyRow) -> Job:
    """The job of a row of the columns FULL or LIGHT."""
    values = {"report": None} | dict(row._mapping)
    spec = replace(JobSpec.from_json(row.spec), plan=values.pop("plan", None))
    return Job(**values | {"spec": spec, "state": JobState(row.state)})


def spec_columns(spec: JobSpec) -> dict[str, Any]:
    """How a spec is stored: its plan apart."""
    return {"spec": replace(spec, plan=None).to_json(), "plan": spec.plan}
