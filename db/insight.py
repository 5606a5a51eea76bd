"""What a job's trials say when they are looked at together: a few grouped queries, none of which loads a workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from db.engine import Database
from db.schema import events, trials, workloads
from tuner.types import Purpose


@dataclass(frozen=True)
class Group:
    """All trials of one job that answer one question: a workload, template and number of cores."""

    id: int  # of its first trial
    record_key: str
    workload: str  # hash
    summary: str  # the workload in a few words, "" where nobody described it
    template: str
    cores: int
    trials: int
    failed: int
    best: float | None  # seconds; None when all failed
    first: float | None  # seconds of the first trial; None when it failed
    first_purpose: Purpose


@dataclass(frozen=True)
class Prediction:
    """A trial that the cost model had a guess about."""

    trial: int
    record_key: str
    predicted: float  # seconds
    seconds: float


class Insight:
    """Reads only; a job with 100,000 trials is read in well under a second."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def groups(self, job: str) -> list[Group]:
        """The job's trials by question, heaviest searched first."""
        grouped = (
            select(
                func.min(trials.c.id).label("first"),
                func.count().label("trials"),
                (func.count() - func.count(trials.c.seconds)).label("failed"),  # within the index
                func.min(trials.c.seconds).label("best"),
            )
            .where(trials.c.job == job)
            .group_by(trials.c.record_key)
            .subquery()
        )
        columns = [trials.c[name] for name in ("id", "record_key", "workload", "candidate", "seconds", "purpose")]
        query = (
            select(*columns, workloads.c.summary, grouped.c.trials, grouped.c.failed, grouped.c.best)
            .join(grouped, trials.c.id == grouped.c.first)
            .join(workloads, workloads.c.hash == trials.c.workload)
            .order_by(grouped.c.trials.desc(), trials.c.id)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            Group(
                id=row.id,
                record_key=row.record_key,
                workload=row.workload,
                summary=row.summary,
                template=row.candidate["template"],
                cores=row.candidate["cores"],
                trials=row.trials,
                failed=row.failed,
                best=row.best,
                first=row.seconds,
                first_purpose=Purpose(row.purpose),
            )
            for row in rows
        ]

    def predictions(self, job: str, limit: int = 2000) -> list[Prediction]:
        """Predicted and measured times of the newest ``limit`` trials that have both, oldest first."""
        query = (
            select(trials.c.id, trials.c.record_key, trials.c.predicted, trials.c.seconds)
            .where(trials.c.job == job, trials.c.predicted.is_not(None), trials.c.seconds.is_not(None))
            .order_by(trials.c.id.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Prediction(row.id, row.record_key, row.predicted, row.seconds) for row in reversed(rows)]

    def knobs(self, job: str, record_key: str, limit: int = 4000) -> list[tuple[Mapping[str, int], float]]:
        """(knobs, seconds) of one question's successful trials."""
        query = (
            select(trials.c.candidate, trials.c.seconds)
            .where(trials.c.job == job, trials.c.record_key == record_key, trials.c.seconds.is_not(None))
            .order_by(trials.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [(row.candidate["knobs"], row.seconds) for row in connection.execute(query)]

    def failures(self, job: str) -> list[int]:
        """Which of the job's trials failed: their numbers within the job, from 1."""
        number = func.row_number().over(order_by=trials.c.id).label("number")
        numbered = select(trials.c.id, number).where(trials.c.job == job).subquery()  # both from indexes alone
        failed = select(trials.c.id).where(trials.c.job == job, trials.c.failure_kind.is_not(None))
        query = select(numbered.c.number).where(numbered.c.id.in_(failed)).order_by(numbered.c.number)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def last_event(self, job: str) -> int:
        """Number of the job's newest event, 0 if there is none: where a watcher begins who has just read the job."""
        with self._database.read() as connection:
            return connection.execute(select(func.max(events.c.seq)).where(events.c.job == job)).scalar() or 0
