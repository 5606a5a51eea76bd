"""Trials: everything that was ever measured, successes and failures, stored the moment it is known."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, overload

from sqlalchemy import ColumnElement, and_, func, literal, select, tuple_

from db.columns import now
from db.engine import Database
from db.moves import Claim, check
from db.paging import Page, cut, decode, encode
from db.rows import (
    LIGHT,
    LightTrial,
    StoredTrial,
    chunks,
    load_summaries,
    load_workloads,
    question_row,
    to_light,
    to_stored,
    trial_row,
    workload_row,
)
from db.schema import questions, trials, workloads
from tuner.types import PROTOCOL, RETRYABLE, FailureKind, Trial

__all__ = ["FailureGroup", "LightTrial", "StoredTrial", "TrialCounts", "Trials"]

Outcome = Literal["ok", "failed"]
Order = Literal["id", "seconds"]
_ADD = trials.insert().returning(trials.c.id)  # made once: to build a statement costs more than to run it
_LARGEST = 2**63 - 1  # what a database takes for a number


@dataclass(frozen=True)
class TrialCounts:
    """How many trials a job made."""

    measured: int  # all of them, failures included
    failed: int


@dataclass(frozen=True)
class FailureGroup:
    """The trials of a job that failed in one way."""

    kind: FailureKind
    count: int
    trial: int  # id of the first one, whose words follow
    message: str
    stderr: str


class Trials:
    """The trials table; rows are only ever added."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stored: set[str] = set()  # hashes of workloads that are there: they are large, and never go

    def add(
        self,
        job_id: str | None,
        trial: Trial,
        *,
        device: str,
        toolchain: str,
        protocol: str = PROTOCOL,
        summary: str = "",
        claim: Claim | None = None,
    ) -> int:
        """Store the trial in one transaction, committed on return, and give back its id.

        ``device`` is a fingerprint; ``summary`` says in a few words what the workload is (the first one is kept). With
        a ``claim``, which must be one on this job, nothing is stored for a driver that lost it.

        Raises:
            InternalError: the job or the device is not stored, or the job has an equal trial already
                (``database-invariant``); the claim was lost (``stale-driver``).
        """
        if claim is not None and claim.job != job_id:
            raise ValueError(f"a claim on job {claim.job} allows no trial of job {job_id}")
        moment = now()
        place = {"device": device, "toolchain": toolchain, "protocol": protocol}
        row = trial_row(trial) | place | {"job": job_id, "created_at": moment}
        workload = trial.candidate.workload_hash
        with self._database.write() as connection:
            if claim is not None:
                check(connection, claim)
            if workload not in self._stored:
                self._database.insert_missing(connection, workloads, workload_row(trial.candidate, summary, moment))
            id = int(connection.execute(_ADD, row).scalar_one())
            if trial.samples and trial.drift is None:
                question = question_row(trial.candidate) | place | {"last_trial": id}
                self._database.upsert(connection, questions, question, update=("last_trial",))
        self._stored.add(workload)
        return id

    def get(self, id: int) -> StoredTrial | None:
        """The trial, or None."""
        found = self._load(trials.c.id == id) if 0 < id <= _LARGEST else []
        return found[0] if found else None

    @overload
    def page(
        self, job_id: str, after: int = ..., limit: int = ..., *,
        state: Outcome | None = ..., kind: FailureKind | None = ..., light: Literal[False] = ...,
    ) -> list[StoredTrial]: ...  # fmt: skip

    @overload
    def page(
        self, job_id: str, after: int = ..., limit: int = ..., *,
        state: Outcome | None = ..., kind: FailureKind | None = ..., light: Literal[True],
    ) -> list[LightTrial]: ...  # fmt: skip

    def page(
        self, job_id: str, after: int = 0, limit: int = 1000, *,
        state: Outcome | None = None, kind: FailureKind | None = None, light: bool = False,
    ) -> list[StoredTrial] | list[LightTrial]:  # fmt: skip
        """The job's trials with ids above ``after``, in the order they were stored; only those that ended so.

        One process writes a job's trials, so none appears later with a smaller id. ``light`` ones leave out what is
        large: workloads, samples, stderr.
        """
        conditions, order = _of_job(job_id, state, kind)
        conditions.append(trials.c.id > max(-1, min(after, _LARGEST)))
        if light:
            return self._load_light(*conditions, order=order, limit=limit)
        return self._load(*conditions, order=order, limit=limit)

    def stream(
        self, job_id: str, chunk: int = 500, *, state: Outcome | None = None, kind: FailureKind | None = None
    ) -> Iterator[StoredTrial]:
        """All trials of the job in order, with no transaction open while the caller works on them."""
        after = 0
        while page := self.page(job_id, after, chunk, state=state, kind=kind):
            yield from page
            after = page[-1].id

    def mine(self, job_id: str) -> list[Trial]:
        """All trials of the job, in the order they were stored: what a resumed job knows already."""
        return [stored.trial for stored in self.stream(job_id)]

    def light_page(
        self,
        job_id: str,
        *,
        cursor: str | None = None,
        order: Order = "id",
        desc: bool = False,
        limit: int = 100,
        state: Outcome | None = None,
        kind: FailureKind | None = None,
    ) -> Page[LightTrial]:
        """A page of the job's trials for people, read through an index wherever in the list it is.

        In order of ``seconds`` failed trials come last in either direction, in the order they were stored.

        Raises:
            UserError: the cursor is of no list in this order (``bad-cursor``).
        """
        name = f"-{order}" if desc else order
        if order == "id":
            last = None if cursor is None else decode(name, cursor, int)[0]
            conditions, columns = _of_job(job_id, state, kind)
            conditions += [] if last is None else [trials.c.id < last if desc else trials.c.id > last]
            rows = self._load_light(*conditions, order=_directed(columns, desc), limit=limit + 1)
            return cut(rows, limit, lambda trial: encode(name, trial.id))
        rows = self._by_seconds(job_id, name, cursor, desc, limit + 1, state, kind)
        return cut(rows, limit, lambda trial: encode(name, trial.seconds, trial.id))

    def _by_seconds(
        self, job: str, name: str, cursor: str | None, desc: bool, limit: int, state: Outcome | None,
        kind: FailureKind | None,
    ) -> list[LightTrial]:  # fmt: skip
        """Successes by seconds, then failures by id: two ranges of two indexes, where one ORDER BY would sort."""
        seconds, id = (None, 0) if cursor is None else decode(name, cursor, float, type(None), int)
        rows: list[LightTrial] = []
        if state != "failed" and kind is None and (cursor is None or seconds is not None):
            place = tuple_(trials.c.seconds, trials.c.id)
            start = (-math.inf, 0) if cursor is None else (seconds, id)
            if desc:
                start = (math.inf, _LARGEST) if cursor is None else start
            bound = tuple_(literal(start[0], trials.c.seconds.type), literal(start[1], trials.c.id.type))
            within = place < bound if desc else place > bound
            order = _directed([trials.c.seconds, trials.c.id], desc)
            rows = self._load_light(trials.c.job == job, within, order=order, limit=limit)
        if state != "ok" and len(rows) < limit:
            conditions, columns = _of_job(job, "failed", kind)
            after = id if cursor is not None and seconds is None else 0
            rows += self._load_light(*conditions, trials.c.id > after, order=columns, limit=limit - len(rows))
        return rows

    def failures(self, job_id: str) -> list[FailureGroup]:
        """The job's failures by kind, the most frequent first, each with its first example."""
        failed = (trials.c.job == job_id, trials.c.failure_kind.is_not(None))
        grouped = select(trials.c.failure_kind, func.count().label("count"), func.min(trials.c.id).label("first"))
        with self._database.read() as connection:
            groups = connection.execute(grouped.where(*failed).group_by(trials.c.failure_kind)).all()
            columns = (trials.c.id, trials.c.failure_message, trials.c.failure_stderr)
            first = select(*columns).where(trials.c.id.in_([group.first for group in groups]))
            words = {row.id: row for row in connection.execute(first)}
        found = [
            FailureGroup(
                FailureKind(kind), count, id, words[id].failure_message, words[id].failure_stderr
            )
            for kind, count, id in groups
        ]  # fmt: skip
        return sorted(found, key=lambda group: (-group.count, group.kind))

    def count(self, job_id: str) -> TrialCounts:
        """How many trials the job made, and how many of them failed."""
        query = select(func.count(), func.count(trials.c.failure_kind)).where(trials.c.job == job_id)
        with self._database.read() as connection:
            measured, failed = connection.execute(query).one()
        return TrialCounts(measured, failed)

    def known(self, record_keys: Collection[str], *, device: str, toolchain: str, protocol: str = PROTOCOL) -> set[str]:
        """Keys of the candidates that need no further try: measured, or failed for a reason that does not pass."""
        passing = [kind.value for kind in RETRYABLE]
        found: set[str] = set()
        with self._database.read() as connection:
            for chunk in chunks(sorted(set(record_keys))):
                query = select(trials.c.candidate_key).where(
                    _comparable(device, toolchain, protocol),
                    trials.c.drift.is_(None),
                    trials.c.record_key.in_(chunk),
                    trials.c.failure_kind.is_(None) | trials.c.failure_kind.not_in(passing),
                )
                found.update(connection.execute(query.distinct()).scalars())
        return found

    def of_records(
        self, record_keys: Collection[str], *, device: str, toolchain: str, protocol: str = PROTOCOL
    ) -> list[Trial]:
        """All trials, failures too, that answer these questions, in the order they were stored.

        What was measured while the device had drifted answers none.
        """
        found: list[StoredTrial] = []
        for chunk in chunks(sorted(set(record_keys))):
            place = _comparable(device, toolchain, protocol)
            found += self._load(place, trials.c.record_key.in_(chunk), trials.c.drift.is_(None))
        return [stored.trial for stored in sorted(found, key=lambda stored: stored.id)]

    def samples(self, device: str, toolchain: str, protocol: str = PROTOCOL, limit: int = 10_000) -> list[Trial]:
        """What cost models learn from: the newest ``limit`` successful trials, in the order they were stored.

        What was measured while the device had drifted is left out.
        """
        place = _comparable(device, toolchain, protocol)
        conditions = (place, trials.c.samples.is_not(None), trials.c.drift.is_(None))
        newest = self._load(*conditions, order=[trials.c.id.desc()], limit=limit)
        return [stored.trial for stored in reversed(newest)]

    def _load(
        self, *conditions: ColumnElement[bool], order: Collection[ColumnElement[Any]] = (trials.c.id,),
        limit: int | None = None,
    ) -> list[StoredTrial]:  # fmt: skip
        query = select(trials).where(*conditions).order_by(*order).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            canonical = load_workloads(connection, {row.workload for row in rows})
        return [to_stored(row, canonical) for row in rows]

    def _load_light(
        self, *conditions: ColumnElement[bool], order: Collection[ColumnElement[Any]], limit: int
    ) -> list[LightTrial]:
        query = select(*LIGHT).where(*conditions).order_by(*order).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            summaries = load_summaries(connection, {row.workload for row in rows})
        return [to_light(row, summaries) for row in rows]


def _of_job(
    job: str, state: Outcome | None, kind: FailureKind | None
) -> tuple[list[ColumnElement[bool]], list[ColumnElement[Any]]]:
    """The conditions for a job's trials that ended so, and the columns that put them in order of id.

    Where an index has the failure's kind before the id, naming it in the order makes PostgreSQL see that it fits.
    """
    conditions: list[ColumnElement[bool]] = [trials.c.job == job]
    if state == "ok":
        conditions.append(trials.c.failure_kind.is_(None))
    elif state == "failed":
        conditions.append(trials.c.failure_kind.is_not(None))
    if kind is not None:
        conditions.append(trials.c.failure_kind == kind.value)
    if kind is None and state != "ok":
        return conditions, [trials.c.id]
    return conditions, [trials.c.failure_kind, trials.c.id]


def _directed(columns: Collection[ColumnElement[Any]], desc: bool) -> list[ColumnElement[Any]]:
    return [column.desc() if desc else column.asc() for column in columns]


def _comparable(device: str, toolchain: str, protocol: str) -> ColumnElement[bool]:
    """Times are comparable only within one device, toolchain and way of measuring."""
    return and_(trials.c.device == device, trials.c.toolchain == toolchain, trials.c.protocol == protocol)
