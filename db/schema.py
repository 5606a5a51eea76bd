"""The tables. A change here needs a new migration in db/migrations/versions; a test compares the two.

Moments for people are UTC; what leases and expiries compare is seconds since 1970 by the database's clock (db_time).
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    false,
    text,
    true,
)

from db.columns import Json, Number, RowId, Utc, Words
from tuner.types import RETRYABLE, JobState, Purpose

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
DRIVEN = (JobState.RUNNING, JobState.CANCELLING)  # a process works on the job
UNITS = ("trials", "seconds", "share")  # of a job's progress
WANTED = ("cancel", "pause")  # what a client may ask of a driver
ROLES = ("full", "read")  # what a token may do


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


# A trial that is never to be made again in its job. Finalists are measured again on purpose; passing failures may be.
_FINAL_WORD = (
    f"{_one_of('purpose', (Purpose.SEARCH, Purpose.CORES))}"
    f" AND (failure_kind IS NULL OR NOT {_one_of('failure_kind', sorted(RETRYABLE))})"
)


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
        CheckConstraint(_one_of("unit", UNITS), name="unit"),
        nullable=False,
        server_default="share",
    ),
    Column("measured", Integer, nullable=False, server_default="0"),  # trials, failures included
    Column("failed", Integer, nullable=False, server_default="0"),  # trials
    Column("reused_trials", Integer, nullable=False, server_default="0"),  # answered by stored records
    Column("onnxruntime_seconds", Number),  # the same model run by ONNX Runtime
    Column("unoptimised_seconds", Number),  # the baseline of that name
    Column("elapsed", Number, nullable=False, server_default="0"),  # seconds worked; queue and pauses excluded
    Column("curve", Json, nullable=False, server_default="[]"),  # [[elapsed, trials, best seconds], ...], few points
    Column("reused", Boolean, nullable=False, server_default=false()),  # answered from the store at once
    Column("answered_by", String(32)),  # the job whose trials its answer stands on; kept as long as this one
    Column("priority", Integer, nullable=False, server_default="0"),  # higher first
    Column("notes", Json),  # the user's own words
    Column("wanted", String(8), CheckConstraint(_one_of("wanted", WANTED), name="wanted")),  # asked of the driver
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
            f" OR (driver IS NOT NULL AND lease_until IS NOT NULL AND {_one_of('state', DRIVEN)})",
            name="lease",
        ),
    ),
    CheckConstraint(_one_of("state", JobState), name="state"),
    CheckConstraint(f"(finished_at IS NOT NULL) = ({_one_of('state', ENDED)})", name="finished"),
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

tokens = Table(
    "tokens",
    metadata,
    Column("id", Words(16), primary_key=True),
    Column("name", Words, nullable=False),
    Column("role", String(8), nullable=False),
    Column("hash", String(64), nullable=False),  # SHA-256 of the secret, which is stored nowhere
    Column("created_at", Utc, nullable=False),
    Column("last_used_at", Utc),
    Column("revoked_at", Utc),
    CheckConstraint(_one_of("role", ROLES), name="role"),
    UniqueConstraint("hash"),
)

login_codes = Table(
    "login_codes",
    metadata,
    Column("hash", String(64), primary_key=True),  # SHA-256 of the code
    Column("created_at", Utc, nullable=False),
    Column("expires_at", Number, nullable=False),  # db_time
    Index(None, "expires_at"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),  # SHA-256 of the cookie's secret
    Column("csrf", String(64), nullable=False),  # shown in the pages of this session
    Column("created_at", Utc, nullable=False),
    Column("last_used_at", Utc),
    Column("expires_at", Number, nullable=False),  # db_time
    Index(None, "expires_at"),
)

workloads = Table(
    "workloads",
    metadata,
    Column("hash", Words(64), primary_key=True),
    Column("canonical", Json, nullable=False),  # Candidate.workload
    Column("summary", Words, nullable=False),  # a few words for people
    Column("created_at", Utc, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("job", ForeignKey("jobs.id", ondelete="SET NULL")),  # records outlive the job that found them
    Column("device", ForeignKey("devices.fingerprint"), nullable=False),
    Column("toolchain", Words, nullable=False),
    Column("protocol", String, nullable=False),
    Column("workload", ForeignKey("workloads.hash"), nullable=False),
    Column("record_key", Words(64), nullable=False),
    Column("candidate_key", Words(64), nullable=False),
    Column("candidate", Json, nullable=False),  # without its workload
    Column("purpose", String(16), nullable=False),
    Column("samples", Json),  # seconds per call
    Column("seconds", Number),  # their median; over the drift, if there is one
    Column("failure_kind", String(16)),
    Column("failure_message", Json),  # as JSON because a crashed process may say anything, NUL characters too
    Column("failure_stderr", Json),
    Column("max_rel_error", Number),
    Column("build_seconds", Number, nullable=False),
    Column("measure_seconds", Number, nullable=False),
    Column("predicted", Number),  # seconds per call that the cost model expected, if it was asked
    Column("created_at", Utc, nullable=False),
    Column("calibration", Number),  # seconds of the calibration kernel meanwhile
    Column("drift", Number),  # times its usual that took, where the device had drifted: no answer for other jobs
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
    # Pages of a job's trials: all by id; by kind and by success (kind NULL) in order of id; failures by id; by seconds.
    Index(None, "job", "id"),
    Index(None, "job", "failure_kind", "id"),
    Index(
        "ix_trials_failed",
        "job",
        "id",
        sqlite_where=text("failure_kind IS NOT NULL"),
        postgresql_where=text("failure_kind IS NOT NULL"),
    ),
    Index(None, "job", "seconds", "id"),
    Index(None, "job", "record_key", "seconds", "id"),  # a job's trials by question, looked at together
    Index(  # no committed trial is made again
        "uq_trials_once",
        "job",
        "candidate_key",
        unique=True,
        sqlite_where=text(_FINAL_WORD),
        postgresql_where=text(_FINAL_WORD),
    ),
    Index(None, "candidate_key"),  # all that is known of one candidate
    Index(None, "workload"),
    sqlite_autoincrement=True,  # a cursor on ids must never meet a number twice
)

# What was ever answered: one row per question and place, written with each successful trial. It holds
# nothing that trials do not; searching records among 100,000 trials would otherwise read them all.
questions = Table(
    "questions",
    metadata,
    Column("device", ForeignKey("devices.fingerprint"), primary_key=True),
    Column("toolchain", Words, primary_key=True),
    Column("protocol", String, primary_key=True),
    Column("record_key", Words(64), primary_key=True),
    Column("workload", ForeignKey("workloads.hash"), nullable=False),
    Column("precision", Words(16), nullable=False),
    Column("last_trial", BigInteger, nullable=False),  # id of the newest successful one: lists begin with the latest
    Index(None, "last_trial"),
    Index(None, "workload"),
)

# What was measured of a designed set of synthetic blocks, and what a cost model learned from it.
calibrations = Table(
    "calibrations",
    metadata,
    Column("device", ForeignKey("devices.fingerprint"), primary_key=True),
    Column("toolchain", Words, primary_key=True),
    Column("protocol", String, primary_key=True),
    Column("samples", Json, nullable=False),  # [{"design", "seconds" or "failure", ...}, ...] in the order measured
    Column("model", Json),  # BlockModel.to_json(); large, read on its own
    Column("quality", Json),  # Quality.to_json() of held-out workloads
    Column("seconds", Number, nullable=False),  # spent measuring, in all
    Column("created_at", Utc, nullable=False),
    Column("updated_at", Utc, nullable=False),
)

# What the calibration kernel took lately on a device, and what that says of it.
health = Table(
    "health",
    metadata,
    Column("device", ForeignKey("devices.fingerprint"), primary_key=True),
    Column("toolchain", Words, primary_key=True),
    Column("protocol", String, primary_key=True),
    Column("readings", Json, nullable=False),  # seconds, oldest first; the newest few hundred
    Column("usual", Number),  # seconds; NULL = too few readings to say
    Column("ratio", Number, nullable=False),  # what it took lately over that
    Column("drifting_since", Utc),  # NULL = it does not drift
    Column("updated_at", Utc, nullable=False),
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
