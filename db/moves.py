"""How a job's row changes hands and states: locking it, refusing stale drivers, and moving it to another state.

Everything here runs inside a caller's write transaction. docs/jobs.md names the moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from db.columns import now
from db.engine import AnyRow
from db.events import append
from db.jobrows import THERE
from db.schema import DRIVEN, ENDED, attempts, jobs
from tuner.errors import InternalError, UserError
from tuner.types import JobState

LONGEST = 600.0  # seconds of any lease: one that would last longer was given before the database's clock was set back
_ROW = select(*(jobs.c[name] for name in ("id", "state", "wanted", "fence", "driver", "attempts", "pausable")))
# Not the full lock: rows that refer to the job may come meanwhile.
_ROW = _ROW.where(jobs.c.id == bindparam("id"), THERE).with_for_update(key_share=True)


@dataclass(frozen=True)
class Claim:
    """The right of one process to work on a job. It ends when the job does, or when another takes the job over."""

    job: str
    fence: int  # grows with each claim of the job; writes with an older one are refused
    holder: str  # who


class StaleDriver(InternalError):
    """A process writes for a job that is no longer its own (code ``stale-driver``); it has to stop at once."""

    default_code = "stale-driver"

    def __init__(self, claim: Claim) -> None:
        super().__init__(f"The job {claim.job} is no longer worked on by {claim.holder} (its fence was {claim.fence}).")


def lock(connection: Connection, job: str) -> AnyRow:
    """State, wanted, fence, driver, attempts and pausable of the job, which nobody else changes until the transaction
    ends.

    Raises:
        UserError: no such job (``unknown-job``).
    """
    row = connection.execute(_ROW, {"id": job}).one_or_none()
    if row is None:
        raise UserError(f"There is no job '{job}'.", code="unknown-job")
    return row


def check(connection: Connection, claim: Claim) -> AnyRow:
    """``lock`` the claim's job; what follows in the transaction is safe from stale writers.

    A lease that ran out is no reason to refuse, as long as nobody took the job over.

    Raises:
        StaleDriver: the job was taken over, ended, or deleted.
    """
    try:
        row = lock(connection, claim.job)
    except UserError:
        raise StaleDriver(claim) from None
    if (row.fence, row.driver) != (claim.fence, claim.holder):
        raise StaleDriver(claim)
    return row


def move(
    connection: Connection,
    job: str,
    state: JobState,
    *,
    reason: str | None = None,
    wanted: str | None = None,
    outcome: str | None = None,
    stderr: str = "",
    **changes: Any,
) -> None:
    """Put the job, locked before, into a state with all that belongs to it, and tell its watchers.

    Leaving the driven states ends the lease and the attempt (``outcome`` is how, by default the state's name;
    ``stderr`` what the driver said). ``changes`` are further columns.
    """
    moment = now()
    values = changes | {"state": state.value, "reason": reason, "wanted": wanted}
    values["finished_at"] = moment if state in ENDED else None
    if state not in DRIVEN:
        values |= {"driver": None, "lease_until": None, "message": None}
        ending = {"ended_at": moment, "outcome": outcome or state.value.lower(), "stderr": stderr or None}
        connection.execute(
            update(attempts).where(attempts.c.job == job, attempts.c.ended_at.is_(None)).values(**ending)
        )
    connection.execute(update(jobs).where(jobs.c.id == job).values(**values))
    tell(connection, job, state, reason, wanted)


def tell(connection: Connection, job: str, state: JobState, reason: str | None, wanted: str | None) -> None:
    """Append the event of a job's state."""
    append(connection, job, "state", {"state": state.value, "reason": reason, "wanted": wanted})
