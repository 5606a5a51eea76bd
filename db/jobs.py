"""Jobs: what was asked, how far it is, what came out, what clients may ask of them. Drivers write through db.queue."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Column, ColumnElement, Connection, bindparam, func, literal, select, update

from db.answers import answers, asked_before, copy_files, key_columns, result
from db.columns import Utc, now
from db.engine import Database
from db.joblists import ORDERS, list_jobs, matches
from db.jobrows import FULL, LIGHT, THERE, File, Job, spec_columns, to_job
from db.moves import lock, move, tell
from db.paging import Page
from db.removal import hide, sweep
from db.schema import devices, job_files, jobs, models
from tuner.errors import InternalError, UserError
from tuner.types import JobSpec, JobState

__all__ = ["ORDERS", "Action", "File", "Job", "Jobs"]

Action = Literal["cancel", "pause", "resume", "retry"]

# What each action makes of a job in each state; where it says nothing the action is refused. The same state again
# means no change, except that a running job's driver is asked to pause, or no longer asked to.
_Q, _R, _P, _X = JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.CANCELLING
_S, _F, _C = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
MOVES: dict[str, dict[JobState, JobState]] = {
    "cancel": {_Q: _C, _P: _C, _R: _X, _X: _X, _C: _C},
    "pause": {_Q: _P, _R: _R, _P: _P},
    "resume": {_P: _Q, _R: _R, _Q: _Q},
    "retry": {_S: _Q, _F: _Q, _C: _Q, _Q: _Q, _R: _R},
}
# Made once: to build a statement costs more than to run it, and clients ask for jobs all the time.
_GET = select(*FULL).where(jobs.c.id == bindparam("id"), THERE)
_GET_LIGHT = select(*LIGHT).where(jobs.c.id == bindparam("id"), THERE)
_HOLD = select(models.c.file, models.c.name).where(models.c.sha256 == bindparam("model")).with_for_update(read=True)
_REASONS = {_C: "Cancelled on request.", _X: "Cancelled on request; its work is being ended.", _P: "Paused on request."}


class Jobs:
    """The jobs table, as clients see it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(
        self,
        spec: JobSpec,
        device: str,
        toolchain: str,
        *,
        model_name: str = "",
        device_name: str = "",
        priority: int = 0,
        notes: str | None = None,
        idempotency: tuple[str, str] | None = None,
        answer: Job | None = None,
        paused: bool = False,
        uploaded: bool = False,
    ) -> tuple[Job, bool]:
        """Store a new job, QUEUED (or PAUSED, so that no server takes it before its submitter, who cannot pause, does).

        Args:
            device: a fingerprint.
            model_name, device_name: empty = as the model or device is called in the store.
            idempotency: (key, hash of the request): the same pair again gives the job it made.
            answer: a job that succeeded with the same question; the new one is born with its result and files.
            uploaded: the model's file has to be stored.

        Returns:
            The job, and whether it is new.

        Raises:
            UserError: the key came with another request before (``idempotency-conflict``); the model's file was
                deleted (``unknown-model``).
            InternalError: the device was never put (``database-invariant``).
        """
        moment, state = now(), JobState.PAUSED if paused else JobState.QUEUED
        id = secrets.token_hex(8)
        row: dict[str, Any] = {
            "id": id,
            "model": spec.model,
            "model_name": model_name,
            **spec_columns(spec),
            "question": spec.question,
            "device": device,
            "device_name": device_name,
            "toolchain": toolchain,
            "state": state.value,
            "stage": "",
            "priority": priority,
            "notes": notes,
            "created_at": moment,
            "pausable": not paused,
        }
        if idempotency is not None:
            row |= key_columns(idempotency)
        with self._database.write() as connection:
            if uploaded:
                _hold_file(connection, spec.model)
            row["model_name"] = model_name or _name(connection, models.c.name, models.c.sha256 == spec.model)
            row["device_name"] = device_name or _name(connection, devices.c.name, devices.c.fingerprint == device)
            # An answer that was deleted meanwhile is none: the job is then worked on.
            known = None if answer is None else result(connection, answer.id)
            if known is not None and answer is not None:
                state = JobState.SUCCEEDED
                row |= known | {"started_at": moment, "finished_at": moment}
            new = self._database.insert_new(connection, jobs, row, unique=jobs.c.idempotency_key, returning=FULL)
            if new is None:
                assert idempotency is not None
                old = asked_before(connection, idempotency)
                if old is None:
                    words = "A job with the same Idempotency-Key is being deleted; try again."
                    raise InternalError(words, code="database-busy")
                return old, False
            if known is not None and answer is not None:
                copy_files(connection, answer.id, id)
            tell(connection, id, state, None, None)
            return to_job(new), True

    def answers(self, question: str, device: str, toolchain: str) -> Sequence[Job]:
        """The newest jobs that ended well with this question on this device (a fingerprint), made by this toolchain and
        engine, without their reports."""
        with self._database.read() as connection:
            return answers(connection, question, device, toolchain)

    def asked(self, key: str, request: str) -> Job | None:
        """The job that ``submit`` made for the idempotency key, or None; ``request`` is the hash of the request.

        Raises:
            UserError: the key came with another request before (``idempotency-conflict``).
        """
        with self._database.read() as connection:
            return asked_before(connection, (key, request))

    def get(self, id: str, *, light: bool = False) -> Job | None:
        """The job, or None. A ``light`` one is without what may be large: its report and its spec's plan."""
        with self._database.read() as connection:
            row = connection.execute(_GET_LIGHT if light else _GET, {"id": id}).one_or_none()
        return None if row is None else to_job(row)

    def list(
        self,
        *,
        state: JobState | Collection[JobState] | None = None,
        device: str | None = None,
        model: str | None = None,
        question: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        order: str = "-created_at",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Job]:
        """A page of the jobs that match all that is given, without their reports and plans.

        ``device`` is a name or a fingerprint, ``model`` a name or the beginning (4 digits or more) of a SHA-256;
        ``order`` one of ORDERS, a minus meaning the greatest first.

        Raises:
            UserError: ``bad-order``; ``bad-cursor`` (also one of another order).
        """
        conditions = matches(
            device=device,
            model=model,
            question=question,
            created_after=created_after,
            created_before=created_before,
        )
        with self._database.read() as connection:
            return list_jobs(connection, state=state, conditions=conditions, order=order, limit=limit, cursor=cursor)

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state, zeros included."""
        each = select(jobs.c.state, func.count().label("number"))
        with self._database.read() as connection:
            every, gone = (  # apart, so that either is read in an index alone
                {row.state: row.number for row in connection.execute(query.group_by(jobs.c.state))}
                for query in (each, each.where(jobs.c.deleted))
            )
        return {state: every.get(state.value, 0) - gone.get(state.value, 0) for state in JobState}

    def files(self, id: str) -> dict[str, File]:
        """What the job left for download, by name; empty also if there is no such job."""
        columns = (job_files.c.name, job_files.c.sha256, job_files.c.size, job_files.c.media_type)
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(job_files.c.job == id).order_by(job_files.c.name)).all()
        return {row.name: File(*row) for row in rows}

    def request(self, id: str, action: Action) -> Job:
        """Do what a client asks for, as MOVES has it; asking twice does no more than asking once.

        A running job is cancelled or paused by its driver, which finds the wish in ``wanted``.

        Raises:
            UserError: no such job (``unknown-job``); not from this state, or nobody who drives it can pause
                (``wrong-state``).
        """
        with self._database.write() as connection:
            row = lock(connection, id)
            state = JobState(row.state)
            target = MOVES[action].get(state)
            if target is None:
                raise UserError(f"The job is {state}; it cannot be asked to {action}.", code="wrong-state")
            if state is _R and action == "pause" and not row.pausable:
                raise UserError(
                    "The job runs in the `fusetune tune` that made it, which cannot pause.",
                    code="wrong-state",
                    hint="Cancel it, or wait for its end.",
                )
            if target is not state:
                _go(connection, id, action, target)
            elif state is _R and action in {"pause", "resume"}:
                wanted = "pause" if action == "pause" else None
                if row.wanted != wanted:
                    connection.execute(update(jobs).where(jobs.c.id == id).values(wanted=wanted))
                    tell(connection, id, state, None, wanted)
            return _load(connection, id)

    def delete(self, id: str) -> None:
        """Forget an ended job with its events and files; its trials stay, for the records.

        Raises:
            UserError: no such job (``unknown-job``); it has not ended, or others hand out its result
                (``wrong-state``).
        """
        with self._database.write() as connection:
            hide(connection, id)
        self.sweep()

    def sweep(self) -> int:
        """Remove what is left of jobs whose deletion has begun, be it by a process that was killed; how many."""
        return sweep(self._database)

    def expire(self, older_than: timedelta, keep: int = 0) -> int:
        """Delete the jobs that ended longer ago, but never the last ``keep`` that ended; how many it deleted.

        A job whose result others hand out stays as long as they do.
        """
        cutoff = literal(now() - older_than, Utc())
        spared = select(jobs.c.id).where(jobs.c.finished_at.is_not(None), THERE)
        spared = spared.order_by(jobs.c.finished_at.desc(), jobs.c.id.desc()).limit(keep)
        with self._database.read() as connection:
            kept = set(connection.execute(spared).scalars()) if keep else set()
            # The newest first: an answer goes before the job it stands on.
            query = select(jobs.c.id).where(jobs.c.finished_at < cutoff, THERE)
            old = connection.execute(query.order_by(jobs.c.finished_at.desc())).scalars().all()
        gone = 0
        for id in old:
            if id not in kept:
                with suppress(UserError):  # deleted, retried or handed out meanwhile
                    self.delete(id)
                    gone += 1
        return gone


def _go(connection: Connection, id: str, action: Action, target: JobState) -> None:
    changes: dict[str, Any] = {}
    if target is _Q:
        changes["stage"] = ""
    if action == "retry":
        # An answer of another job was not good enough: now it works itself.
        changes |= {"retries": True, "attempts": 0, "reused": False, "answered_by": None}
    wanted = "cancel" if target is _X else None
    move(connection, id, target, reason=_REASONS.get(target), wanted=wanted, **changes)


def _load(connection: Connection, id: str) -> Job:
    return to_job(connection.execute(select(*FULL).where(jobs.c.id == id)).one())


def _hold_file(connection: Connection, model: str) -> None:
    """Keep the model's file until the transaction ends."""
    row = connection.execute(_HOLD, {"model": model}).one_or_none()
    if row is None or not row.file:
        name = model if row is None else row.name
        raise UserError(f"The file of model '{name}' was deleted.", code="unknown-model", hint="Upload it again.")


def _name(connection: Connection, column: Column[str], condition: ColumnElement[bool]) -> str:
    return connection.execute(select(column).where(condition)).scalar() or ""
