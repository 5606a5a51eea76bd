"""Figures of the whole service for metrics and for the list of devices: short queries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from db.columns import now
from db.engine import Database
from db.jobrows import THERE
from db.schema import DRIVEN, jobs, questions
from tuner.types import JobState


@dataclass(frozen=True)
class Load:
    """What a device has to do."""

    running: int = 0  # jobs
    queued: int = 0  # jobs


@dataclass(frozen=True)
class Totals:
    """Sums over the stored jobs."""

    measured: int  # trials, failures included
    failed: int  # trials
    queue_seconds: float  # age of the oldest waiting job; 0 without one


class Overview:
    """Questions about all jobs together."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def totals(self) -> Totals:
        """Sums over all stored jobs."""
        waiting = select(func.min(jobs.c.created_at)).where(jobs.c.state == JobState.QUEUED.value)
        sums = select(func.sum(jobs.c.measured), func.sum(jobs.c.failed)).where(THERE)
        with self._database.read() as connection:
            measured, failed = connection.execute(sums).one()
            oldest: datetime | None = connection.execute(waiting).scalar()
        age = 0.0 if oldest is None else max(0.0, (now() - oldest).total_seconds())
        return Totals(int(measured or 0), int(failed or 0), age)

    def load(self) -> dict[str, Load]:
        """Device fingerprint -> what it has to do; devices without any work are left out."""
        states = [JobState.QUEUED.value, *(state.value for state in DRIVEN)]
        query = select(jobs.c.device, jobs.c.state, func.count()).where(jobs.c.state.in_(states))
        found: dict[str, Load] = {}
        with self._database.read() as connection:
            for device, state, count in connection.execute(query.group_by(jobs.c.device, jobs.c.state)):
                before = found.get(device, Load())
                waits = state == JobState.QUEUED.value
                found[device] = Load(
                    before.running + (0 if waits else count), before.queued + (count if waits else 0)
                )  # fmt: skip
        return found

    def questions(self) -> dict[str, int]:
        """Device fingerprint -> to how many questions a measured answer is stored."""
        query = select(questions.c.device, func.count().label("number")).group_by(questions.c.device)
        with self._database.read() as connection:
            return {row.device: row.number for row in connection.execute(query)}
