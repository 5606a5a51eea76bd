"""What the service needs: a queue with leases, turns on devices, files, blobs, models' details, tokens and sessions.

No table is rebuilt: SQLite would have to drop the old one, and with it everything that refers to it.
"""

import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FINAL_WORD = (
    "purpose IN ('search', 'cores') AND (failure_kind IS NULL OR NOT failure_kind IN ('lost', 'memory', 'timeout'))"
)
_LEASE = (
    "(driver IS NULL AND lease_until IS NULL)"
    " OR (driver IS NOT NULL AND lease_until IS NOT NULL AND state IN ('RUNNING', 'CANCELLING'))"
)
_INTERRUPTED = "The process that worked on it ended without a word."


def upgrade() -> None:
    _new_tables()
    _new_columns()
    _new_data(op.get_bind())
    _new_indexes()


def _new_tables() -> None:
    op.create_table(
        "attempts",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("fence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("stderr", sa.Text(), nullable=True),
        sa.Column("last_trial", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_attempts_ended")),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_attempts_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "fence", name=op.f("pk_attempts")),
    )
    _partial_index("uq_attempts_open", "attempts", ["job"], "ended_at IS NULL", unique=True)
    op.create_table(
        "turns",
        sa.Column("device", sa.String(length=16), nullable=False),
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("what", sa.Text(), nullable=True),
        sa.Column("taken_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.fingerprint"], name=op.f("fk_turns_device"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_turns_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_turns")),
    )
    op.create_index(op.f("ix_turns_job"), "turns", ["job"])
    op.create_table(
        "job_files",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_job_files_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "name", name=op.f("pk_job_files")),
    )
    op.create_index(op.f("ix_job_files_sha256"), "job_files", ["sha256"])
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("touched_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_index(op.f("ix_blobs_touched_at"), "blobs", ["touched_at"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('full', 'read')", name=op.f("ck_tokens_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )
    op.create_table(
        "login_codes",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_login_codes")),
    )
    op.create_index(op.f("ix_login_codes_expires_at"), "login_codes", ["expires_at"])
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"])
    op.create_table(
        "questions",
        sa.Column("device", sa.String(length=16), nullable=False),
        sa.Column("toolchain", sa.String(), nullable=False),
        sa.Column("protocol", sa.String(), nullable=False),
        sa.Column("record_key", sa.String(length=64), nullable=False),
        sa.Column("workload", sa.String(length=64), nullable=False),
        sa.Column("precision", sa.String(length=16), nullable=False),
        sa.Column("last_trial", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.fingerprint"], name=op.f("fk_questions_device")),
        sa.ForeignKeyConstraint(["workload"], ["workloads.hash"], name=op.f("fk_questions_workload")),
        sa.PrimaryKeyConstraint("device", "toolchain", "protocol", "record_key", name=op.f("pk_questions")),
    )
    op.create_index(op.f("ix_questions_last_trial"), "questions", ["last_trial"])
    op.create_index(op.f("ix_questions_workload"), "questions", ["workload"])


def _new_columns() -> None:
    words, number, text = sa.String(), sa.Double(), sa.Text()
    _add("devices", ("server", words), ("available_until", number))
    _add(
        "models",
        ("inputs", text, "[]"),
        ("outputs", text, "[]"),
        ("details", text),
        ("graph", text),
        ("file", sa.Boolean(), sa.false()),
    )
    _add(
        "jobs",
        ("model_name", words, ""),
        ("device_name", words, ""),
        ("message", text),
        ("done", number, "0"),
        ("total", number),
    )
    unit = sa.CheckConstraint("unit IN ('trials', 'seconds', 'share')", name=op.f("ck_jobs_unit"))
    op.add_column("jobs", sa.Column("unit", sa.String(length=8), unit, nullable=False, server_default="share"))
    _add(
        "jobs",
        ("measured", sa.Integer(), "0"),
        ("failed", sa.Integer(), "0"),
        ("reused_trials", sa.Integer(), "0"),
        ("onnxruntime_seconds", number),
        ("unoptimised_seconds", number),
        ("elapsed", number, "0"),
        ("curve", text, "[]"),
        ("reused", sa.Boolean(), sa.false()),
        ("answered_by", sa.String(length=32)),
        ("priority", sa.Integer(), "0"),
        ("notes", text),
    )
    wanted = sa.CheckConstraint("wanted IN ('cancel', 'pause')", name=op.f("ck_jobs_wanted"))
    op.add_column("jobs", sa.Column("wanted", sa.String(length=8), wanted))
    _add(
        "jobs",
        ("retries", sa.Boolean(), sa.false()),
        ("fence", sa.Integer(), "0"),
        ("attempts", sa.Integer(), "0"),
        ("idempotency_key", sa.String(length=64)),
        ("request_hash", sa.String(length=64)),
        ("plan", text),
        ("engine", sa.String(length=64), ""),
        ("pausable", sa.Boolean(), sa.true()),
        ("deleted", sa.Boolean(), sa.false()),
        ("driver", words),
    )
    _add("trials", ("predicted", number))
    op.add_column("jobs", sa.Column("lease_until", number, sa.CheckConstraint(_LEASE, name=op.f("ck_jobs_lease"))))


def _new_data(connection: sa.Connection) -> None:
    """Old rows brought to what the new invariants and the new columns say."""
    # Nothing holds a lease on these, so nothing would ever end them.
    connection.execute(
        sa.text(
            "UPDATE jobs SET state = 'FAILED', reason = :reason, finished_at = :now"
            " WHERE state IN ('RUNNING', 'CANCELLING')"
        ).bindparams(sa.bindparam("now", type_=sa.DateTime(timezone=True))),
        {"reason": json.dumps(_INTERRUPTED), "now": datetime.now(UTC)},
    )
    op.execute(
        "UPDATE jobs SET"
        " device_name = coalesce((SELECT name FROM devices WHERE fingerprint = jobs.device), ''),"
        " measured = (SELECT count(*) FROM trials WHERE job = jobs.id),"
        " failed = (SELECT count(failure_kind) FROM trials WHERE job = jobs.id)"
    )
    for id, text in connection.execute(sa.text("SELECT id, spec FROM jobs")).all():
        spec = json.loads(text)
        if spec.get("plan") is not None:
            connection.execute(
                sa.text("UPDATE jobs SET plan = :plan, spec = :spec WHERE id = :id"),
                {"id": id, "plan": json.dumps(spec["plan"]), "spec": json.dumps(spec | {"plan": None})},
            )
    # The first of equal trials is the job's; the others stay what records may learn from.
    op.execute(
        "UPDATE trials SET job = NULL WHERE id IN (SELECT id FROM ("  # noqa: S608
        "SELECT id, row_number() OVER (PARTITION BY job, candidate_key ORDER BY id) AS place FROM trials"
        f" WHERE job IS NOT NULL AND {_FINAL_WORD}) AS numbered WHERE place > 1)"
    )
    _fill_questions(connection)
    reports = connection.execute(sa.text("SELECT id, report FROM jobs WHERE report IS NOT NULL")).all()
    for id, report in reports:
        connection.execute(
            sa.text(
                "UPDATE jobs SET model_name = :model_name, elapsed = :elapsed, reused_trials = :reused_trials,"
                " unoptimised_seconds = :unoptimised_seconds, onnxruntime_seconds = :onnxruntime_seconds"
                " WHERE id = :id"
            ),
            {"id": id} | _summary(json.loads(report)),
        )


def _fill_questions(connection: sa.Connection) -> None:
    answered = connection.execute(
        sa.text(
            "SELECT device, toolchain, protocol, record_key, workload, candidate, last_trial FROM trials JOIN"
            " (SELECT max(id) AS last_trial FROM trials WHERE samples IS NOT NULL"
            " GROUP BY device, toolchain, protocol, record_key) AS newest ON id = last_trial"
        )
    ).mappings()
    for row in answered.all():
        precision = json.loads(row["candidate"]).get("precision", "fp32")
        connection.execute(
            sa.text(
                "INSERT INTO questions (device, toolchain, protocol, record_key, workload, precision, last_trial)"
                " VALUES (:device, :toolchain, :protocol, :record_key, :workload, :precision, :last_trial)"
            ),
            {**row, "precision": precision},
        )


def _summary(report: dict) -> dict:
    """What lists show of a report; reports of that time may lack any of it."""

    def found(*path: str) -> object:
        value: object = report
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def seconds(name: str) -> float | None:
        median = found("latency_ms", name, "median")
        return median / 1e3 if isinstance(median, int | float) else None

    elapsed, reused, name = found("seconds", "total"), found("trials", "reused"), found("model", "name")
    return {
        "model_name": name.replace("\0", "") if isinstance(name, str) else "",
        "elapsed": elapsed if isinstance(elapsed, int | float) else 0.0,
        "reused_trials": reused if isinstance(reused, int) else 0,
        "unoptimised_seconds": seconds("unoptimised"),
        "onnxruntime_seconds": seconds("onnxruntime"),
    }


def _new_indexes() -> None:
    op.drop_index(op.f("ix_jobs_model"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_question"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_state_created_at"), table_name="jobs")
    for first in ([], ["device"], ["device_name"], ["model"], ["model_name"], ["question"]):
        _index("jobs", *first, "state", "created_at", "id")
    _index("jobs", "state", "priority", "created_at", "id")
    _index("jobs", "device", "state", "priority", "created_at", "id")
    _index("jobs", "finished_at")
    _partial_index("ix_jobs_leases", "jobs", ["lease_until"], "lease_until IS NOT NULL")
    op.create_index("uq_jobs_idempotency_key", "jobs", ["idempotency_key"], unique=True)
    _partial_index("ix_jobs_answers", "jobs", ["answered_by"], "answered_by IS NOT NULL")
    _partial_index("ix_jobs_deleted", "jobs", ["state", "id"], "deleted")
    _index("models", "created_at", "sha256")
    _index("trials", "job", "failure_kind", "id")
    _index("trials", "job", "seconds", "id")
    _index("trials", "job", "record_key", "seconds", "id")
    _index("trials", "candidate_key")
    _partial_index("ix_trials_failed", "trials", ["job", "id"], "failure_kind IS NOT NULL")
    _partial_index("uq_trials_once", "trials", ["job", "candidate_key"], _FINAL_WORD, unique=True)


def _add(table: str, *columns: tuple) -> None:
    """Columns (name, type[, default]); those with a default are never NULL."""
    for name, type, *default in columns:
        value = default[0] if default else None
        op.add_column(table, sa.Column(name, type, nullable=not default, server_default=value))


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f("_".join(("ix", table, *columns))), table, list(columns))


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
