"""Turns on devices: jobs that share a device measure one at a time.

A turn is held by a claim for some seconds of database time, and falls back when they are over or the claim ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, Double, and_, bindparam, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from db.columns import db_time
from db.engine import Database
from db.moves import LONGEST, Claim, check
from db.schema import turns

_RENEW = update(turns).where(  # made once: every driver renews its turn all the time
    turns.c.device == bindparam("of"), turns.c.job == bindparam("by"), turns.c.fence == bindparam("under")
).values(expires_at=db_time() + bindparam("for", type_=Double), what=bindparam("said"))  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """Who measures on a device now."""

    device: str  # fingerprint
    job: str
    fence: int  # of the claim
    what: str | None  # what is being measured, for people
    taken_at: datetime  # UTC
    expires_at: datetime  # UTC


class Turns:
    """The turns table: its primary key, the device, is what keeps two from measuring at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, device: str, claim: Claim, seconds: float, what: str | None = None) -> bool:
        """Take the device for ``seconds`` unless another has it; taking what one has prolongs it.

        Raises:
            StaleDriver: the job is no longer the claim's.
            InternalError: the device was never put (``database-invariant``).
        """
        row = {
            "device": device,
            "job": claim.job,
            "fence": claim.fence,
            "what": what,
            "taken_at": db_time(),
            "expires_at": db_time() + min(seconds, LONGEST),
        }
        statement = (sqlite if self._database.sqlite else postgresql).insert(turns).values(**row)
        mine = and_(turns.c.job == claim.job, turns.c.fence == claim.fence)
        statement = statement.on_conflict_do_update(
            index_elements=[turns.c.device],
            set_={name: statement.excluded[name] for name in row if name != "device"},
            # One that lasts longer than any does was taken before the database's clock was set back.
            where=or_(turns.c.expires_at < db_time(), turns.c.expires_at > db_time() + LONGEST, mine),
        )
        with self._database.write() as connection:
            check(connection, claim)
            return connection.execute(statement.returning(turns.c.device)).first() is not None

    def release(self, device: str, claim: Claim) -> None:
        """Give the device back; nothing happens if the claim does not have it."""
        with self._database.write() as connection:
            connection.execute(delete(turns).where(*_of(device, claim)))

    def current(self, device: str) -> Turn | None:
        """Whose turn it is, or None."""
        with self._database.read() as connection:
            row = connection.execute(
                select(turns).where(turns.c.device == device, turns.c.expires_at >= db_time())
            ).one_or_none()
        if row is None:
            return None
        taken, expires = (datetime.fromtimestamp(seconds, UTC) for seconds in (row.taken_at, row.expires_at))
        return Turn(row.device, row.job, row.fence, row.what, taken, expires)


def prolong(connection: Connection, device: str, claim: Claim, seconds: float, what: str | None) -> bool:
    """Keep the device for ``seconds`` from now and say what is measured; False if the turn went to another.

    Within a transaction that has checked the claim.
    """
    given = {"of": device, "by": claim.job, "under": claim.fence, "for": min(seconds, LONGEST), "said": what}
    return connection.execute(_RENEW, given).rowcount > 0


def _of(device: str, claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return turns.c.device == device, turns.c.job == claim.job, turns.c.fence == claim.fence
