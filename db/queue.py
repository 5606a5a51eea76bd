"""The queue: drivers claim jobs under leases, write while they hold them, and lose them when they fall silent.

Leases run in database time. Every write compares the claim's fence with the job's in its own transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, TypedDict, Unpack

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Select,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)

from db.columns import Utc, db_time, now
from db.engine import AnyRow, Database
from db.events import append
from db.moves import LONGEST, Claim, StaleDriver, check, lock, move, tell
from db.rows import chunks
from db.schema import DRIVEN, attempts, devices, job_files, jobs, trials, turns
from db.turns import prolong
from tuner.errors import UserError
from tuner.types import RETRYABLE, JobState
from tuner.versions import ENGINE

__all__ = ["Attempt", "Claim", "Queue", "StaleDriver"]

LIMIT = 5  # crashes in a row, with no new trial between, that a job may have
_LOST = "The process that worked on it fell silent."
_CANCELLED = "Cancelled on request."
_PAUSED = "Paused on request."


@dataclass(frozen=True)
class Attempt:
    """One time that a driver held a job."""

    fence: int
    holder: str
    started_at: datetime  # UTC, as is ended_at
    ended_at: datetime | None
    outcome: str | None  # the state it left, in lower case; or "released", "crashed" or "lost"
    stderr: str | None  # last words of a driver that died


@dataclass(frozen=True)
class Beat:
    """What a driver learns when it renews what it holds."""

    wanted: str | None  # what clients want of it
    kept: bool  # False = its turn on the device went to another


class Fields(TypedDict, total=False):
    """What a driver reports while it works; see Job."""

    stage: str
    message: str | None
    done: float
    total: float | None
    unit: str
    measured: int
    failed: int
    reused_trials: int
    best_seconds: float | None
    onnxruntime_seconds: float | None
    unoptimised_seconds: float | None
    elapsed: float
    curve: Sequence[Sequence[float]]  # stored as it is: tuner.events.Curve keeps it short
    retries: bool


_TOLD = tuple(jobs.c[name] for name in Fields.__annotations__ if name not in {"curve", "retries"})


def _turn() -> Select[Any]:
    """Of each device among ``free``: id, priority and created_at of the job whose turn it is."""
    first, any_ = jobs.alias(), jobs.alias()
    highest = select(func.max(any_.c.priority)).where(_waiting(any_)).correlate(devices).scalar_subquery()
    next_ = select(first.c.id).where(_waiting(first), first.c.priority == highest).correlate(devices)
    next_ = next_.order_by(first.c.created_at, first.c.id).limit(1)
    query = select(jobs.c.id, jobs.c.priority, jobs.c.created_at)
    query = query.select_from(devices.join(jobs, jobs.c.id == next_.scalar_subquery()))
    return query.where(devices.c.fingerprint.in_(bindparam("free", expanding=True)))


def _waiting(table: Any) -> ColumnElement[bool]:
    return and_(table.c.device == devices.c.fingerprint, table.c.state == JobState.QUEUED.value)


# Made once: to build a statement costs more than to run it.
_NEXT = _turn()
_LOCK = select(jobs.c.id).where(jobs.c.id == bindparam("id"), jobs.c.state == JobState.QUEUED.value)
_LOCK = _LOCK.with_for_update(key_share=True, skip_locked=True)
_MINE = (jobs.c.id == bindparam("of"), jobs.c.fence == bindparam("under"), jobs.c.driver == bindparam("by"))
_RENEW = update(jobs).where(*_MINE).values(
    lease_until=db_time() + bindparam("for", type_=Double),
    elapsed=func.coalesce(bindparam("worked", type_=jobs.c.elapsed.type), jobs.c.elapsed),
).returning(jobs.c.wanted)  # fmt: skip
_OVERDUE = (jobs.c.lease_until.is_not(None),
            or_(jobs.c.lease_until < db_time(), jobs.c.lease_until > db_time() + LONGEST))  # fmt: skip


class Queue:
    """Jobs as their drivers see them. Calls with a claim raise StaleDriver once the job is no longer the claim's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, holder: str, *, devices: Collection[str], per_device: int, seconds: float) -> Claim | None:
        """Take the queued job of the highest priority, the oldest of these, for ``seconds``.

        Only jobs on ``devices`` (fingerprints) that run fewer than ``per_device``. None = there is none.
        """
        with self._database.write() as connection:
            free = _free(connection, devices, per_device)
            for row in sorted(_next(connection, free), key=_rank):
                if _locked(connection, row.id):
                    return _take(connection, row.id, holder, seconds, pausable=True)
            return None

    def start(self, job_id: str, holder: str, seconds: float) -> Claim:
        """Take one given job that is QUEUED or PAUSED, whatever else runs.

        Raises:
            UserError: no such job (``unknown-job``); it is in another state (``wrong-state``).
        """
        with self._database.write() as connection:
            state = lock(connection, job_id).state
            if state not in {JobState.QUEUED, JobState.PAUSED}:
                raise UserError(f"The job is {state}; it cannot be started.", code="wrong-state")
            return _take(connection, job_id, holder, seconds)

    def renew(self, claim: Claim, seconds: float, *, elapsed: float | None = None) -> str | None:
        """Hold the job for ``seconds`` from now, even if the lease ran out meanwhile; gives back what is ``wanted``."""
        given = {"of": claim.job, "under": claim.fence, "by": claim.holder, "for": min(seconds, LONGEST)}
        with self._database.write() as connection:
            row = connection.execute(_RENEW, given | {"worked": elapsed}).one_or_none()
            if row is None:
                raise StaleDriver(claim)
            wanted: str | None = row.wanted
            return wanted

    def beat(
        self, claim: Claim, seconds: float, *, elapsed: float, device: str | None = None, what: str | None = None
    ) -> Beat:  # fmt: skip
        """``renew``, and in the same transaction the claim's turn on the device with this fingerprint."""
        given = {"of": claim.job, "under": claim.fence, "by": claim.holder, "for": min(seconds, LONGEST)}
        with self._database.write() as connection:
            row = connection.execute(_RENEW, given | {"worked": elapsed}).one_or_none()
            if row is None:
                raise StaleDriver(claim)
            kept = device is None or prolong(connection, device, claim, seconds, what)
        return Beat(row.wanted, kept)

    def progress(self, claim: Claim, *, event: bool = False, **fields: Unpack[Fields]) -> None:
        """Note how far it is; with ``event``, tell the job's watchers all of it (kind "progress", fields as in Job)."""
        values: dict[str, Any] = dict(fields)
        with self._database.write() as connection:
            row = _write(connection, claim, values or {"id": claim.job}, *_TOLD)
            if event:
                append(connection, claim.job, "progress", dict(row._mapping))

    def finish(
        self,
        claim: Claim,
        state: Literal[JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED],
        *,
        reason: str | None = None,
        report: Mapping[str, Any] | None = None,
        best_seconds: float | None = None,
        files: Mapping[str, tuple[str, int, str]] | None = None,
    ) -> JobState:
        """End the claim; gives back the state the job came to: CANCELLED if a cancel came before a pause.

        ``files``: name -> (SHA-256, bytes, media type), in place of those of earlier runs. What is None stays.
        """
        changes: dict[str, Any] = {}
        if report is not None:
            changes |= {"report": report, "paired": report.get("speedup", {}).get("over_onnxruntime")}
        if best_seconds is not None:
            changes["best_seconds"] = best_seconds
        with self._database.write() as connection:
            row = check(connection, claim)
            if state is JobState.PAUSED and row.wanted == "cancel":
                state, reason = JobState.CANCELLED, _CANCELLED
            if state in {JobState.SUCCEEDED, JobState.PAUSED}:
                changes["attempts"] = 0
            if state is not JobState.PAUSED:
                changes["retries"] = False
            if files:
                connection.execute(delete(job_files).where(job_files.c.job == claim.job))
                columns = ("name", "sha256", "size", "media_type")
                rows = [dict(zip(columns, (name, *file), strict=True)) for name, file in files.items()]
                connection.execute(job_files.insert(), [row | {"job": claim.job} for row in rows])
            _leave(connection, claim)
            move(connection, claim.job, state, reason=reason, **changes)
        return state

    def release(self, claim: Claim, *, reason: str | None = None) -> JobState:
        """Let go of the job unfinished, for somebody to go on with: it counts as no crash."""
        with self._database.write() as connection:
            row = check(connection, claim)
            state, why = _asked_for(row) or (JobState.QUEUED, reason)
            _leave(connection, claim)
            move(connection, claim.job, state, reason=why, outcome="released")
        return state

    def crashed(self, claim: Claim, reason: str, stderr: str = "", *, limit: int = LIMIT) -> JobState:
        """Note that the driver died: the job is queued again, or FAILED after ``limit`` crashes without a new trial."""
        with self._database.write() as connection:
            row = check(connection, claim)
            _leave(connection, claim)
            return _lost(connection, row, reason, stderr, "crashed", limit)

    def overdue(self) -> dict[str, float]:
        """Job -> end of its lease in database time, of those whose lease has run out.

        If it stands there unchanged when every living driver has had its time to renew, the driver is dead; otherwise
        the database's clock has jumped.
        """
        with self._database.read() as connection:
            query = select(jobs.c.id, jobs.c.lease_until).where(*_OVERDUE)
            return {row.id: row.lease_until for row in connection.execute(query)}

    def reclaim(self, overdue: Mapping[str, float] | None = None, *, limit: int = LIMIT) -> list[tuple[str, JobState]]:
        """Do as ``crashed`` with every job whose lease has run out; gives back the jobs and what became of them.

        With ``overdue``, only with these, and only if nobody has renewed their leases meanwhile.
        """
        columns = (jobs.c.id, jobs.c.state, jobs.c.wanted, jobs.c.fence, jobs.c.driver, jobs.c.attempts)
        query = select(*columns, jobs.c.lease_until).where(*_OVERDUE)
        query = query.order_by(jobs.c.id).with_for_update(key_share=True, skip_locked=True)
        with self._database.write() as connection:
            # The device stays taken until the turn runs out too: the silent driver may still measure.
            rows = connection.execute(query).all()
            due = [row for row in rows if overdue is None or overdue.get(row.id) == row.lease_until]
            return [(row.id, _lost(connection, row, _LOST, "", "lost", limit)) for row in due]

    def mark_waiting(self, words: str) -> None:
        """Have jobs that are queued for a device that nobody drives now say so, and others not any more."""
        gone = select(devices.c.fingerprint).where(func.coalesce(devices.c.available_until, 0.0) <= db_time())
        queued = jobs.c.state == JobState.QUEUED.value
        silent = update(jobs).where(queued, jobs.c.message.is_(None), jobs.c.device.in_(gone))
        saying = update(jobs).where(queued, jobs.c.message == words, jobs.c.device.not_in(gone))
        with self._database.write() as connection:
            connection.execute(silent.values(message=words))
            connection.execute(saying.values(message=None))

    def undisturbed(self, holder: str, claims: Collection[Claim]) -> bool:
        """Whether these are all that the holder drives, and nobody wants anything of them: a short answer for many."""
        told = select(func.count(), func.coalesce(func.sum(jobs.c.fence), 0), func.count(jobs.c.wanted))
        query = told.where(jobs.c.lease_until.is_not(None), jobs.c.driver == holder)
        with self._database.read() as connection:
            count, fences, wanted = connection.execute(query).one()
        return (count, fences, wanted) == (len(claims), sum(claim.fence for claim in claims), 0)

    def wanted(self, holder: str) -> dict[Claim, str | None]:
        """What clients want of the jobs that the holder drives; one that is missing here is no longer its own."""
        columns = (jobs.c.id, jobs.c.fence, jobs.c.wanted)
        query = select(*columns).where(jobs.c.lease_until.is_not(None), jobs.c.driver == holder)
        with self._database.read() as connection:
            return {Claim(row.id, row.fence, holder): row.wanted for row in connection.execute(query)}

    def attempts(self, job: str) -> list[Attempt]:
        """Who held the job, oldest first."""
        columns = (attempts.c.fence, attempts.c.holder, attempts.c.started_at, attempts.c.ended_at, attempts.c.outcome)
        query = select(*columns, attempts.c.stderr).where(attempts.c.job == job).order_by(attempts.c.fence)
        with self._database.read() as connection:
            return [Attempt(*row) for row in connection.execute(query)]


def _free(connection: Connection, wanted: Collection[str], per_device: int) -> list[str]:
    """Those of the devices that run fewer jobs; they are locked, so that others do not count at the same time."""
    query = select(devices.c.fingerprint).where(devices.c.fingerprint.in_(sorted(set(wanted))))
    known = connection.execute(query.order_by(devices.c.fingerprint).with_for_update(key_share=True)).scalars().all()
    driven = jobs.c.state.in_([state.value for state in DRIVEN])
    busy = select(jobs.c.device, func.count().label("number")).where(jobs.c.device.in_(known), driven)
    counts: dict[str, int] = {row.device: row.number for row in connection.execute(busy.group_by(jobs.c.device))}
    return [device for device in known if counts.get(device, 0) < per_device]


def _next(connection: Connection, free: Sequence[str]) -> Sequence[AnyRow]:
    """Of each of these devices the job whose turn it is, all in one statement: a thousand may be free.

    Two steps into one index for each: nothing is sorted, however long the queue.
    """
    rows: Sequence[AnyRow] = []
    for some in chunks(free):
        rows = [*rows, *connection.execute(_NEXT, {"free": some})]
    return rows


def _locked(connection: Connection, job: str) -> bool:
    """Lock the job's row; False if it is not queued any more, or somebody else has locked it."""
    return connection.execute(_LOCK, {"id": job}).first() is not None


def _rank(row: AnyRow) -> tuple[int, datetime, str]:
    return (-row.priority, row.created_at, row.id)


def _newest_trial(connection: Connection, job: str) -> int:
    """The job's newest trial that is not made again: those that failed for a passing reason are no step forward."""
    lasting = trials.c.failure_kind.is_(None) | trials.c.failure_kind.not_in([kind.value for kind in RETRYABLE])
    query = select(trials.c.id).where(trials.c.job == job, lasting).order_by(trials.c.id.desc()).limit(1)
    return connection.execute(query).scalar() or 0


def _take(connection: Connection, job: str, holder: str, seconds: float, **more: Any) -> Claim:
    """Make the holder the driver of a job locked before; ``more`` columns say what it can do."""
    moment = now()
    values = more | {
        "state": JobState.RUNNING.value,
        "engine": ENGINE,
        "reason": None,
        "message": None,
        "wanted": None,
        "fence": jobs.c.fence + 1,
        "driver": holder,
        "lease_until": db_time() + min(seconds, LONGEST),
        "started_at": func.coalesce(jobs.c.started_at, literal(moment, Utc())),
    }
    fence = connection.execute(
        update(jobs).where(jobs.c.id == job).values(**values).returning(jobs.c.fence)
    ).scalar_one()
    row = {"job": job, "fence": fence, "holder": holder, "started_at": moment}
    connection.execute(attempts.insert().values(**row, last_trial=_newest_trial(connection, job)))
    tell(connection, job, JobState.RUNNING, None, None)
    return Claim(job, fence, holder)


def _write(connection: Connection, claim: Claim, values: Mapping[str, Any], *returned: Any) -> AnyRow:
    """One UPDATE of the claim's job, if it still is that."""
    given = {"of": claim.job, "under": claim.fence, "by": claim.holder} | {f"new_{n}": v for n, v in values.items()}
    row = connection.execute(_writing(tuple(values), returned), given).one_or_none()
    if row is None:
        raise StaleDriver(claim)
    return row


@cache
def _writing(names: tuple[str, ...], returned: tuple[Any, ...]) -> Any:
    """Made once for each set of columns."""
    values = {name: bindparam(f"new_{name}", type_=jobs.c[name].type) for name in names}
    return update(jobs).where(*_MINE).values(**values).returning(*returned)


def _leave(connection: Connection, claim: Claim) -> None:
    """Give back the devices that the claim's driver measured on."""
    connection.execute(delete(turns).where(turns.c.job == claim.job, turns.c.fence == claim.fence))


def _asked_for(row: AnyRow) -> tuple[JobState, str] | None:
    """The state that clients wait for, and its reason."""
    if row.state == JobState.CANCELLING or row.wanted == "cancel":
        return JobState.CANCELLED, _CANCELLED
    return (JobState.PAUSED, _PAUSED) if row.wanted == "pause" else None


def _lost(connection: Connection, row: AnyRow, reason: str, stderr: str, outcome: str, limit: int) -> JobState:
    """What becomes of a locked job without its driver."""
    asked = _asked_for(row)
    if asked is not None:
        move(connection, row.id, asked[0], reason=asked[1], outcome=outcome, stderr=stderr)
        return asked[0]
    began = select(attempts.c.last_trial).where(attempts.c.job == row.id, attempts.c.fence == row.fence)
    got_on = _newest_trial(connection, row.id) > (connection.execute(began).scalar() or 0)
    crashes = 1 if got_on else row.attempts + 1
    state = JobState.FAILED if crashes >= limit else JobState.QUEUED
    if state is JobState.FAILED and crashes > 1:
        reason = f"{reason} That was so {crashes} times in a row."
    move(connection, row.id, state, reason=reason, outcome=outcome, stderr=stderr, attempts=crashes)
    return state
