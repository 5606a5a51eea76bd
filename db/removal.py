"""The deletion of a job: it is hidden at once, and what it leaves is removed in portions."""

from __future__ import annotations

import time

from sqlalchemy import Connection, delete, exists, select, update

from db.answers import handed_out
from db.engine import Database
from db.moves import lock
from db.schema import ENDED, events, job_files, jobs, trials
from tuner.errors import UserError
from tuner.types import JobState

_PORTION = 1000  # trials
_PAUSE = 0.02  # seconds between portions, for others to get in


def hide(connection: Connection, id: str) -> None:
    """Make nobody find the job any more, within a write transaction: its key is free again, its files are nobody's.

    Raises:
        UserError: no such job (``unknown-job``); it has not ended, or others hand out its result (``wrong-state``).
    """
    state = JobState(lock(connection, id).state)
    if state not in ENDED:
        raise UserError(
            f"The job is {state}; only ended jobs can be deleted.", code="wrong-state", hint="Cancel it first."
        )
    if handed_out(connection, id):
        raise UserError("Other jobs hand out this job's result.", code="wrong-state", hint="Delete them first.")
    gone = {"deleted": True, "idempotency_key": None, "request_hash": None, "answered_by": None}
    connection.execute(update(jobs).where(jobs.c.id == id).values(**gone))
    for table in (events, job_files):
        connection.execute(delete(table).where(table.c.job == id))


def sweep(database: Database) -> int:
    """Remove hidden jobs; how many there were."""
    # Their trials let go of them in portions, each a short transaction: on SQLite all other writers wait meanwhile. A
    # kill between two leaves a hidden job for the next sweep.
    with database.read() as connection:
        gone = connection.execute(select(jobs.c.id).where(jobs.c.deleted)).scalars().all()
    for id in gone:
        some = select(trials.c.id).where(trials.c.job == id).order_by(trials.c.id).limit(_PORTION)
        free = update(trials).where(trials.c.id.in_(some)).values(job=None)
        while True:
            with database.write() as connection:
                if connection.execute(free).rowcount < _PORTION:
                    left = exists().where(trials.c.job == id)
                    connection.execute(delete(jobs).where(jobs.c.id == id, jobs.c.deleted, ~left))
                    break
            time.sleep(_PAUSE)
    return len(gone)
