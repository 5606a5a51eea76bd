"""Events: what happened in a job, numbered 1, 2, ... so that a listener can go on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, or_, select

from db.columns import now
from db.engine import Database
from db.jobrows import THERE
from db.rows import chunks
from db.schema import events, jobs
from tuner.errors import UserError

# Made once: to build a statement costs more than to run it, and every change of a job passes here.
_NEXT = select(
    bindparam("of", type_=events.c.job.type), func.coalesce(func.max(events.c.seq), 0) + 1,
    *(bindparam(f"new_{name}", type_=events.c[name].type) for name in ("kind", "payload", "created_at")),
).where(events.c.job == bindparam("of", type_=events.c.job.type))  # fmt: skip
_APPEND = events.insert().from_select(["job", "seq", "kind", "payload", "created_at"], _NEXT).returning(events.c.seq)


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
            query = select(jobs.c.id).where(jobs.c.id == job, THERE).with_for_update(key_share=True)
            if connection.execute(query).first():
                return append(connection, job, kind, payload)
        raise UserError(f"There is no job '{job}'.", code="unknown-job")

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

    def news(self, positions: Mapping[str, int], limit: int = 1000) -> dict[str, list[Event]]:
        """Job -> its events with numbers above the one given for it, in order; jobs without any are left out.

        ``limit`` is for all of them together: what is cut off comes with the next call.
        """
        found: dict[str, list[Event]] = {}
        columns = (events.c.job, events.c.seq, events.c.kind, events.c.payload, events.c.created_at)
        with self._database.read() as connection:
            for chunk in chunks(sorted(positions.items())):
                wanted = or_(*(and_(events.c.job == job, events.c.seq > seq) for job, seq in chunk))
                query = select(*columns).where(wanted).order_by(events.c.job, events.c.seq).limit(limit)
                for job, *rest in connection.execute(query):
                    found.setdefault(job, []).append(Event(*rest))
        return found


def append(connection: Connection, job: str, kind: str, payload: Mapping[str, Any]) -> int:
    """Add the event within a transaction that has locked or changed the job's row, and give back its number.

    On PostgreSQL that lock keeps two writers from taking one number.
    """
    row = {"of": job, "new_kind": kind, "new_payload": payload, "new_created_at": now()}
    seq: int = connection.execute(_APPEND, row).scalar_one()
    return seq
