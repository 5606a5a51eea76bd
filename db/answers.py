"""What new jobs take over from stored ones: the job of a known key, or the result of a job that asked the same.

Everything here runs inside a caller's write transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, exists, literal, select

from db.jobrows import FULL, LIGHT, THERE, Job, to_job
from db.schema import job_files, jobs
from tuner.errors import UserError
from tuner.types import JobState, digest
from tuner.versions import ENGINE

_COPIED = (
    "stage", "best_seconds", "onnxruntime_seconds", "unoptimised_seconds", "paired", "curve", "report", "done", "total",
    "unit", "engine",
)  # fmt: skip


ANSWERS = 100
_OF_KEY = select(jobs.c.id, jobs.c.request_hash).where(THERE, jobs.c.idempotency_key == bindparam("key"))
_OF_ID = select(*FULL).where(jobs.c.id == bindparam("id"))
_ANSWERS = (
    select(*LIGHT)
    .where(
        jobs.c.state == JobState.SUCCEEDED.value, THERE, jobs.c.engine == bindparam("engine"),
        *(jobs.c[name] == bindparam(name) for name in ("question", "device", "toolchain")),
    )
    .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
    .limit(ANSWERS)
)  # fmt: skip


def key_columns(idempotency: tuple[str, str]) -> dict[str, Any]:
    """How (key, hash of the request) is stored."""
    return {"idempotency_key": digest(idempotency[0]), "request_hash": idempotency[1]}


def asked_before(connection: Connection, idempotency: tuple[str, str]) -> Job | None:
    """The job that has the key already, or None.

    Raises:
        UserError: it came with another request (``idempotency-conflict``).
    """
    given = key_columns(idempotency)
    row = connection.execute(_OF_KEY, {"key": given["idempotency_key"]}).one_or_none()
    if row is None:
        return None
    if row.request_hash != given["request_hash"]:
        raise UserError(
            "The Idempotency-Key was used for another request before.",
            code="idempotency-conflict",
            hint="Use a new key for each new request.",
        )
    return to_job(connection.execute(_OF_ID, {"id": row.id}).one())


def answers(connection: Connection, question: str, device: str, toolchain: str) -> Sequence[Job]:
    """The newest jobs that ended well with this question on the device, made by this toolchain and engine.

    At most ANSWERS, without their reports.
    """
    asked = {"question": question, "device": device, "toolchain": toolchain, "engine": ENGINE}
    return [to_job(row) for row in connection.execute(_ANSWERS, asked)]


def result(connection: Connection, id: str) -> dict[str, Any] | None:
    """What a job takes over from the one that answers it; None if that has no result any more.

    The answering job, and the one whose trials its answer stands on, stay until the transaction ends.
    """
    columns = [jobs.c[name] for name in ("measured", "reused_trials", "reused", "answered_by", *_COPIED)]
    query = select(*columns).where(jobs.c.id == id, jobs.c.state == JobState.SUCCEEDED.value, THERE)
    row = connection.execute(query.with_for_update(read=True)).one_or_none()
    if row is None:
        return None
    # Answers of answers all name the job that has the trials.
    source = row.answered_by if row.reused else id
    if source != id:
        held = select(jobs.c.id).where(jobs.c.id == source, THERE).with_for_update(read=True)
        if connection.execute(held).one_or_none() is None:
            return None
    values: dict[str, Any] = {name: row._mapping[name] for name in _COPIED}
    # Everything that the other stood on is reused.
    reused = {"reused": True, "reused_trials": row.measured + row.reused_trials, "answered_by": source}
    return values | reused | {"state": JobState.SUCCEEDED.value}


def copy_files(connection: Connection, source: str, target: str) -> None:
    """Let a job hand out the files of another too."""
    columns = ("name", "sha256", "size", "media_type")
    found = select(literal(target), *(job_files.c[name] for name in columns)).where(job_files.c.job == source)
    connection.execute(job_files.insert().from_select(("job", *columns), found))


def handed_out(connection: Connection, id: str) -> bool:
    """Whether another job's answer stands on this job's trials."""
    return bool(connection.execute(select(exists().where(jobs.c.answered_by == id, THERE))).scalar())
