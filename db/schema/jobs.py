"""Jobs, who works on them, and what they need and leave: models, devices and turns on them, files, events."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    false,
    text,
    true,
)

from db.columns import Json, Number, Utc, Words
from db.schema.base import DRIVEN, ENDED, UNITS, WANTED, metadata, one_of
from tuner.types import JobState

models = Table(
    "models",
    metadata,
    Column("sha256", Words(64), primary_key=True),
    Column("name", Words, nullable=False),
    Column("layers", Integer, nullable=False),
    Column("macs", BigInteger, nullable=False),  # multiply-accumulates of one run
    Column("bytes", BigInteger, nullable=False),  # size of the ONNX file
    Column("created_at", Utc, nullable=False),
    Column("inputs", Json, nullable=False, server_default="[]"),  # [{"name", "dtype", "shape"}, ...]
    Column("outputs", Json, nullable=False, server_default="[]"),
    Column("details", Json),  # what an inspection found, for people
    Column("graph", Json),  # the cleaned Graph; large, read on its own
    Column("file", Boolean, nullable=False, server_default=false()),  # its bytes are in the blob store
    Index(None, "created_at", "sha256"),
)

devices = Table(
    "devices",
    metadata,
    Column("fingerprint", Words(16), primary_key=True),
    Column("name", Words, nullable=False),
    Column("spec", Json, nullable=False),  # Device.to_json()
    Column("peak_flops", Number),  # measured, floating-point operations per second
    Column("bandwidth", Number),  # measured, bytes per second
    Column("first_seen_at", Utc, nullable=False),
    Column("last_seen_at", Utc, nullable=False),
    Column("server", Words),  # the last server that offered to drive it
    Column("available_until", Number),  # until when that offer stands, db_time
    Index(None, "name"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Words(32), primary_key=True),
    Column("model", Words(64), nullable=False),  # no foreign key: a job outlives the model's file
    Column("spec", Json, nullable=False),  # JobSpec.to_json() without its plan
    Column("question", Words(64), nullable=False),  # JobSpec.question
    Column("device", ForeignKey("devices.fingerprint"), nullable=False),
    Column("toolchain", Words, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String, nullable=False),  # "" before it first runs
    Column("reason", Json),  # a sentence that may quote foreign output
    Column("best_seconds", Number),  # of the whole model
    Column("report", Json),  # large, not read by lists
    Column("created_at", Utc, nullable=False),
    Column("started_at", Utc),  # first time RUNNING
    Column("finished_at", Utc),
    Column("model_name", Words, nullable=False, server_default=""),  # as it was called when the job came
    Column("device_name", Words, nullable=False, server_default=""),
    Column("message", Json),  # what it does now, in plain words
    Column("done", Number, nullable=False, server_default="0"),  # progress, in units
    Column("total", Number),  # NULL while unknown
    Column(
        "unit",
        String(8),
        CheckConstraint(one_of("unit", UNITS), name="unit"),
        nullable=False,
        server_default="share",
    ),
    Column("measured", Integer, nullable=False, server_default="0"),  # trials, failures included
    Column("failed", Integer, nullable=False, server_default="0"),  # trials
    Column("reused_trials", Integer, nullable=False, server_default="0"),  # answered by stored records
    Column("onnxruntime_seconds", Number),  # the same model run by ONNX Runtime
    Column("unoptimised_seconds", Number),  # the baseline of that name
    Column("paired", Number),  # the report's over_onnxruntime, for lists
    Column("elapsed", Number, nullable=False, server_default="0"),  # seconds worked; queue and pauses excluded
    Column("curve", Json, nullable=False, server_default="[]"),  # [[elapsed, trials, best seconds], ...], few points
    Column("reused", Boolean, nullable=False, server_default=false()),  # answered from the store at once
    Column("answered_by", String(32)),  # the job whose trials its answer stands on; kept as long as this one
    Column("priority", Integer, nullable=False, server_default="0"),  # higher first
    Column("notes", Json),  # the user's own words
    Column("wanted", String(8), CheckConstraint(one_of("wanted", WANTED), name="wanted")),  # asked of the driver
    Column("retries", Boolean, nullable=False, server_default=false()),  # next run repeats passing failures first
    Column("fence", Integer, nullable=False, server_default="0"),  # grows with each driver; older ones are refused
    Column("attempts", Integer, nullable=False, server_default="0"),  # crashes in a row
    Column("idempotency_key", String(64)),  # SHA-256 of what the client sent
    Column("request_hash", String(64)),  # of the request that came with it
    Column("plan", Json),  # JobSpec.plan: may be large, not read by lists
    Column("engine", String(64), nullable=False, server_default=""),  # tuner.versions.ENGINE of its last run
    Column("pausable", Boolean, nullable=False, server_default=true()),  # whoever drives it can pause
    Column("deleted", Boolean, nullable=False, server_default=false()),  # for its clients it is gone
    Column("driver", Words),  # who works on it
    Column(
        "lease_until",  # when the driver counts as lost, db_time
        Number,
        CheckConstraint(
            "(driver IS NULL AND lease_until IS NULL)"
            f" OR (driver IS NOT NULL AND lease_until IS NOT NULL AND {one_of('state', DRIVEN)})",
            name="lease",
        ),
    ),
    CheckConstraint(one_of("state", JobState), name="state"),
    CheckConstraint(f"(finished_at IS NOT NULL) = ({one_of('state', ENDED)})", name="finished"),
    # Lists read one range per state and merge: whatever the filter, no list sorts or skips through the whole table.
    Index(None, "created_at", "id"),
    Index(None, "state", "created_at", "id"),
    Index(None, "state", "priority", "created_at", "id"),
    Index(None, "device", "state", "created_at", "id"),
    Index(None, "device", "state", "priority", "created_at", "id"),  # the queue of a device
    Index(None, "device_name", "state", "created_at", "id"),
    Index(None, "model", "state", "created_at", "id"),
    Index(None, "model_name", "state", "created_at", "id"),
    Index(None, "question", "state", "created_at", "id"),
    Index(None, "finished_at"),
    Index(
        "ix_jobs_leases",
        "lease_until",
        sqlite_where=text("lease_until IS NOT NULL"),
        postgresql_where=text("lease_until IS NOT NULL"),
    ),
    Index("uq_jobs_idempotency_key", "idempotency_key", unique=True),
    Index(  # who hands out its answer
        "ix_jobs_answers",
        "answered_by",
        sqlite_where=text("answered_by IS NOT NULL"),
        postgresql_where=text("answered_by IS NOT NULL"),
    ),
    Index(  # what is still to be removed, which counts leave out
        "ix_jobs_deleted",
        "state",
        "id",
        sqlite_where=text("deleted"),
        postgresql_where=text("deleted"),
    ),
)

# One row per time that a driver took a job.
attempts = Table(
    "attempts",
    metadata,
    Column("job", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", Integer, primary_key=True, autoincrement=False),
    Column("holder", Words, nullable=False),
    Column("started_at", Utc, nullable=False),
    Column("ended_at", Utc),
    Column("outcome", String(16)),  # set with ended_at
    Column("stderr", Json),  # of a driver that died
    Column("last_trial", BigInteger, nullable=False),  # the job's newest when it began: did this run get anywhere?
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended"),
    Index(  # one driver per job
        "uq_attempts_open",
        "job",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)

# Who may measure on a device now. The primary key is the invariant: one at a time.
turns = Table(
    "turns",
    metadata,
    Column("device", ForeignKey("devices.fingerprint", ondelete="CASCADE"), primary_key=True),
    Column("job", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("fence", Integer, nullable=False),  # of the claim that took it
    Column("what", Json),  # what is being measured, for people
    Column("taken_at", Number, nullable=False),  # db_time
    Column("expires_at", Number, nullable=False),  # db_time
    Index(None, "job"),
)

# What a job leaves for download; the bytes are blobs.
job_files = Table(
    "job_files",
    metadata,
    Column("job", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Words(64), primary_key=True),  # "artifact.zip"
    Column("sha256", Words(64), nullable=False),
    Column("size", BigInteger, nullable=False),  # bytes
    Column("media_type", String(64), nullable=False),
    Index(None, "sha256"),
)

# What the blob folder holds, so that its size and its garbage are found without walking it.
blobs = Table(
    "blobs",
    metadata,
    Column("sha256", Words(64), primary_key=True),
    Column("size", BigInteger, nullable=False),  # bytes
    Column("touched_at", Number, nullable=False),  # last put, db_time: young ones are never garbage
    Index(None, "touched_at"),
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
