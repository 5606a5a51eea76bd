"""Jobs: what was asked, how far it is, what came out. Which transitions are allowed is not decided here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, func, literal, select, tuple_, update

from db.columns import Utc, now
from db.engine import Database
from db.schema import ENDED, jobs
from tuner.errors import UserError
from tuner.types import JobSpec, JobState


class _Same(Enum):
    SAME = 0


SAME = _Same.SAME  # leaves a column as it is, where None would clear it
_Keep = Literal[_Same.SAME]


@dataclass(frozen=True)
class Job:
    """One JobSpec being worked on, or finished."""

    id: str
    spec: JobSpec
    question: str  # JobSpec.question: equal ones have equal answers
    device: str  # fingerprint
    toolchain: str
    state: JobState
    stage: str  # what a running job is doing, for people; empty before it runs
    reason: str | None  # why it is in this state
    best_seconds: float | None  # best latency of the whole model so far
    report: Mapping[str, Any] | None
    created_at: datetime  # UTC, as all times
    started_at: datetime | None  # first time RUNNING
    finished_at: datetime | None  # set exactly while the state is an end state


class Jobs:
    """The jobs table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, spec: JobSpec, device_fingerprint: str, toolchain: str) -> str:
        """Store a new job, QUEUED, and give back its id.

        Raises:
            InternalError: the device was never put (``database-invariant``).
        """
        row = {
            "id": secrets.token_hex(8),
            "model": spec.model,
            "spec": spec.to_json(),
            "question": spec.question,
            "device": device_fingerprint,
            "toolchain": toolchain,
            "state": JobState.QUEUED.value,
            "stage": "",
            "created_at": now(),
        }
        with self._database.write() as connection:
            connection.execute(jobs.insert().values(**row))
        return str(row["id"])

    def update(
        self,
        id: str,
        *,
        state: JobState | _Keep = SAME,
        stage: str | _Keep = SAME,
        reason: str | _Keep | None = SAME,
        best_seconds: float | _Keep | None = SAME,
        report: Mapping[str, Any] | _Keep | None = SAME,
    ) -> None:
        """Set what is given. The first RUNNING sets the start; an end state sets the end, another state clears it.

        Raises:
            UserError: no such job (``unknown-job``).
        """
        given = {"stage": stage, "reason": reason, "best_seconds": best_seconds, "report": report}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not SAME}
        if state is not SAME:
            moment = literal(now(), Utc())
            changes["state"] = state.value
            changes["finished_at"] = func.coalesce(jobs.c.finished_at, moment) if state in ENDED else None
            if state is JobState.RUNNING:
                changes["started_at"] = func.coalesce(jobs.c.started_at, moment)
        with self._database.write() as connection:
            query = update(jobs).where(jobs.c.id == id).values(**changes or {"id": id})
            if connection.execute(query).rowcount == 0:
                raise UserError(f"There is no job '{id}'.", code="unknown-job")

    def get(self, id: str) -> Job | None:
        """The job, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == id)).one_or_none()
        return None if row is None else _job(row)

    def list(
        self,
        *,
        state: JobState | None = None,
        device: str | None = None,
        model: str | None = None,
        question: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Job]:
        """The newest jobs first, those only that match all that is given.

        ``before`` is the id of the last job of the previous page; an unknown one gives an empty page.
        """
        age = tuple_(jobs.c.created_at, jobs.c.id)
        conditions: list[ColumnElement[bool]] = []
        if state is not None:
            conditions.append(jobs.c.state == state.value)
        if device is not None:
            conditions.append(jobs.c.device == device)
        if model is not None:
            conditions.append(jobs.c.model == model)
        if question is not None:
            conditions.append(jobs.c.question == question)
        if before is not None:
            last = jobs.alias("last")
            conditions.append(age < select(last.c.created_at, last.c.id).where(last.c.id == before).scalar_subquery())
        query = select(jobs).where(*conditions).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]


def _job(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    values.pop("model")
    return Job(**values | {"spec": JobSpec.from_json(row.spec), "state": JobState(row.state)})
