"""The tables. A change here needs a new migration in db/migrations/versions; a test compares the two."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    text,
)

from db.columns import Json, Number, RowId, Utc
from tuner.types import JobState

# Named constraints, so that later migrations can drop them on both databases.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def _one_of(column: str, states: Iterable[JobState]) -> str:
    return f"{column} IN ({', '.join(repr(state.value) for state in states)})"


models = Table(
    "models",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("name", String, nullable=False),
    Column("layers", Integer, nullable=False),
    Column("macs", BigInteger, nullable=False),  # multiply-accumulates of one run
    Column("bytes", BigInteger, nullable=False),  # size of the ONNX file
    Column("created_at", Utc, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("fingerprint", String(16), primary_key=True),
    Column("name", String, nullable=False),
    Column("spec", Json, nullable=False),  # Device.to_json()
    Column("peak_flops", Number),  # measured, floating-point operations per second
    Column("bandwidth", Number),  # measured, bytes per second
    Column("first_seen_at", Utc, nullable=False),
    Column("last_seen_at", Utc, nullable=False),
    Index(None, "name"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("model", String(64), nullable=False),  # no foreign key: a job outlives the model's file
    Column("spec", Json, nullable=False),  # JobSpec.to_json()
    Column("question", String(64), nullable=False),  # JobSpec.question
    Column("device", ForeignKey("devices.fingerprint"), nullable=False),
    Column("toolchain", String, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String, nullable=False),
    Column("reason", Json),  # a sentence that may quote foreign output
    Column("best_seconds", Number),  # of the whole model
    Column("report", Json),
    Column("created_at", Utc, nullable=False),
    Column("started_at", Utc),
    Column("finished_at", Utc),
    CheckConstraint(_one_of("state", JobState), name="state"),
    CheckConstraint(f"(finished_at IS NOT NULL) = ({_one_of('state', ENDED)})", name="finished"),
    Index(None, "created_at", "id"),
    Index(None, "state", "created_at"),
    Index(None, "question"),
    Index(None, "model"),
)

workloads = Table(
    "workloads",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("canonical", Json, nullable=False),  # Candidate.workload
    Column("summary", String, nullable=False),  # a few words for people
    Column("created_at", Utc, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("job", ForeignKey("jobs.id", ondelete="SET NULL")),  # records outlive the job that found them
    Column("device", ForeignKey("devices.fingerprint"), nullable=False),
    Column("toolchain", String, nullable=False),
    Column("protocol", String, nullable=False),
    Column("workload", ForeignKey("workloads.hash"), nullable=False),
    Column("record_key", String(64), nullable=False),
    Column("candidate_key", String(64), nullable=False),
    Column("candidate", Json, nullable=False),  # without its workload
    Column("purpose", String(16), nullable=False),
    Column("samples", Json),  # seconds per call
    Column("seconds", Number),  # their median
    Column("failure_kind", String(16)),
    Column("failure_message", Json),  # as JSON because a crashed process may say anything, NUL characters too
    Column("failure_stderr", Json),
    Column("max_rel_error", Number),
    Column("build_seconds", Number, nullable=False),
    Column("measure_seconds", Number, nullable=False),
    Column("created_at", Utc, nullable=False),
    CheckConstraint(
        "(samples IS NOT NULL AND seconds IS NOT NULL AND failure_kind IS NULL"
        " AND failure_message IS NULL AND failure_stderr IS NULL)"
        " OR (samples IS NULL AND seconds IS NULL AND failure_kind IS NOT NULL"
        " AND failure_message IS NOT NULL AND failure_stderr IS NOT NULL)",
        name="samples_or_failure",
    ),
    Index("ix_trials_records", "device", "toolchain", "protocol", "record_key", "seconds"),
    # What cost models learn from: the newest successes of a device.
    Index(
        "ix_trials_measured",
        "device",
        "toolchain",
        "protocol",
        "id",
        sqlite_where=text("samples IS NOT NULL"),
        postgresql_where=text("samples IS NOT NULL"),
    ),
    Index(None, "job", "id"),
    Index(None, "workload"),
    sqlite_autoincrement=True,  # a cursor on ids must never meet a number twice
)

events = Table(
    "events",
    metadata,
    Column("job", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),  # 1, 2, ... within the job
    Column("kind", String, nullable=False),
    Column("payload", Json, nullable=False),
    Column("created_at", Utc, nullable=False),
)
