"""Events: what happened in a job, numbered 1, 2, ... so that a listener can go on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from db.columns import now
from db.engine import Database
from db.schema import events, jobs
from tuner.errors import UserError


@dataclass(frozen=True)
class Event:
    """One thing that happened in a job."""

    seq: int  # 1, 2, ... without gaps within the job
    kind: str
    payload: Mapping[str, Any]
    created_at: datetime  # UTC


class Events:
    """The events table; rows are only ever added."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job: str, kind: str, payload: Mapping[str, Any]) -> int:
        """Store the event, committed on return, and give back its number.

        Raises:
            UserError: no such job (``unknown-job``).
        """
        with self._database.write() as connection:
            # On PostgreSQL the lock on the job's row keeps two writers from taking one number.
            if connection.execute(select(jobs.c.id).where(jobs.c.id == job).with_for_update()).first() is None:
                raise UserError(f"There is no job '{job}'.", code="unknown-job")
            last = connection.execute(select(func.max(events.c.seq)).where(events.c.job == job)).scalar()
            seq = (last or 0) + 1
            row = {"job": job, "seq": seq, "kind": kind, "payload": payload, "created_at": now()}
            connection.execute(events.insert().values(**row))
        return seq

    def after(self, job: str, seq: int = 0, limit: int = 1000) -> list[Event]:
        """The job's events with numbers above ``seq``, in order."""
        query = (
            select(events.c.seq, events.c.kind, events.c.payload, events.c.created_at)
            .where(events.c.job == job, events.c.seq > seq)
            .order_by(events.c.seq)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [Event(*row) for row in connection.execute(query)]
