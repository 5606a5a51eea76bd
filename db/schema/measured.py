"""What was measured: trials and the questions they answer, calibrations, and devices' health."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, String, Table, text

from db.columns import Json, Number, RowId, Utc, Words
from db.schema.base import metadata, one_of
from tuner.types import RETRYABLE, Purpose

# A trial that is never to be made again in its job. Finalists are measured again on purpose; passing failures may be.
_FINAL_WORD = (
    f"{one_of('purpose', (Purpose.SEARCH, Purpose.CORES))}"
    f" AND (failure_kind IS NULL OR NOT {one_of('failure_kind', sorted(RETRYABLE))})"
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
