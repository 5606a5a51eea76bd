"""Trials: everything that was ever measured, successes and failures, stored the moment it is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, select

from db.columns import now
from db.engine import Database
from db.rows import chunks, load_workloads, to_trial, trial_row
from db.schema import trials, workloads
from tuner.types import PROTOCOL, RETRYABLE, Trial


@dataclass(frozen=True)
class StoredTrial:
    """A trial and where it came from."""

    id: int  # grows with time
    job: str | None  # None once its job is deleted, or if it belonged to none
    device: str  # fingerprint
    toolchain: str
    protocol: str
    created_at: datetime  # UTC
    trial: Trial


@dataclass(frozen=True)
class TrialCounts:
    """How many trials a job made."""

    measured: int  # all of them, failures included
    failed: int


class Trials:
    """The trials table; rows are only ever added."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        job_id: str | None,
        trial: Trial,
        *,
        device: str,
        toolchain: str,
        protocol: str = PROTOCOL,
        summary: str = "",
    ) -> int:
        """Store the trial in one transaction, committed on return, and give back its id.

        ``device`` is a fingerprint; ``summary`` says in a few words what the workload is (the first one is kept).

        Raises:
            InternalError: the job or the device is not stored (``database-invariant``).
        """
        candidate, moment = trial.candidate, now()
        row = trial_row(trial) | {
            "job": job_id,
            "device": device,
            "toolchain": toolchain,
            "protocol": protocol,
            "created_at": moment,
        }
        workload = {
            "hash": candidate.workload_hash,
            "canonical": candidate.workload,
            "summary": summary,
            "created_at": moment,
        }
        with self._database.write() as connection:
            self._database.insert_missing(connection, workloads, workload)
            stored = connection.execute(trials.insert().values(**row).returning(trials.c.id))
            return int(stored.scalar_one())

    def page(self, job_id: str, after: int = 0, limit: int = 1000) -> list[StoredTrial]:
        """The job's trials with ids above ``after``, in the order they were stored.

        One process writes a job's trials, so none appears later with a smaller id.
        """
        return self._load(trials.c.job == job_id, after=after, limit=limit)

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
                    trials.c.record_key.in_(chunk),
                    trials.c.failure_kind.is_(None) | trials.c.failure_kind.not_in(passing),
                )
                found.update(connection.execute(query.distinct()).scalars())
        return found

    def of_records(
        self, record_keys: Collection[str], *, device: str, toolchain: str, protocol: str = PROTOCOL
    ) -> list[Trial]:
        """All trials, failures too, that answer these questions, in the order they were stored."""
        found: list[StoredTrial] = []
        for chunk in chunks(sorted(set(record_keys))):
            found += self._load(_comparable(device, toolchain, protocol), trials.c.record_key.in_(chunk))
        return [stored.trial for stored in sorted(found, key=lambda stored: stored.id)]

    def samples(self, device: str, toolchain: str, protocol: str = PROTOCOL, limit: int = 10_000) -> list[Trial]:
        """What cost models learn from: the newest ``limit`` successful trials, in the order they were stored."""
        conditions = (_comparable(device, toolchain, protocol), trials.c.samples.is_not(None))
        return [stored.trial for stored in self._load(*conditions, limit=limit, newest=True)]

    def _load(
        self, *conditions: ColumnElement[bool], after: int = 0, limit: int | None = None, newest: bool = False
    ) -> list[StoredTrial]:
        query = select(trials).where(*conditions, trials.c.id > after).limit(limit)
        query = query.order_by(trials.c.id.desc() if newest else trials.c.id)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            canonical = load_workloads(connection, {row.workload for row in rows})
        return [
            StoredTrial(
                row.id, row.job, row.device, row.toolchain, row.protocol, row.created_at, to_trial(row, canonical)
            )
            for row in (reversed(rows) if newest else rows)
        ]


def _comparable(device: str, toolchain: str, protocol: str) -> ColumnElement[bool]:
    """Times are comparable only within one device, toolchain and way of measuring."""
    return and_(trials.c.device == device, trials.c.toolchain == toolchain, trials.c.protocol == protocol)
