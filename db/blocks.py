"""Blocks that jobs measured on a device, each with its best time: what a cost model of blocks learns from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select

from db.engine import Database
from db.rows import load_workloads
from db.schema import jobs, questions, trials
from tuner.types import PROTOCOL, JobState, Purpose

_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class MeasuredBlock:
    """One question (workload, layouts, template, cores, residency) that ended jobs have answered on one device."""

    trial: int  # id of its first successful trial
    workload: Mapping[str, Any]  # canonical
    workload_hash: str
    layouts: Mapping[str, str]
    template: str
    cores: int
    residency: str
    first: float  # seconds of the first successful trial: mostly the template's default knobs
    purpose: Purpose  # of that trial
    best: float  # seconds of the fastest trial
    tried: int  # successful trials


class Blocks:
    """Reads only: two queries however many trials there are behind the answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(
        self, device: str, toolchain: str, limit: int, *, precision: str = "fp32", protocol: str = PROTOCOL
    ) -> list[MeasuredBlock]:
        """The questions answered last, at most ``limit``, in the order in which they were first answered.

        ``device`` is a fingerprint. Questions that a job began which has not ended are left out: a job that is resumed
        learns from the same as before.
        """
        place = {"device": device, "toolchain": toolchain, "protocol": protocol}
        asked = (
            select(questions.c.record_key)
            .where(*(questions.c[name] == value for name, value in place.items()), questions.c.precision == precision)
            .order_by(questions.c.last_trial.desc())
            .limit(limit)
            .subquery()
        )
        grouped = (
            select(
                func.min(trials.c.id).label("first"),
                func.min(trials.c.seconds).label("best"),
                func.count().label("tried"),
            )
            .join(asked, trials.c.record_key == asked.c.record_key)
            .where(
                *(trials.c[name] == value for name, value in place.items()),
                trials.c.seconds > -math.inf,
                trials.c.drift.is_(None),
            )
            .group_by(trials.c.record_key)
            .subquery()
        )
        at_work = select(jobs.c.id).where(jobs.c.state.not_in([state.value for state in _ENDED]))
        query = (
            select(
                trials.c.id, trials.c.workload, trials.c.candidate, trials.c.seconds, trials.c.purpose, grouped.c.best,
                grouped.c.tried,
            )
            .join(grouped, trials.c.id == grouped.c.first)
            .where(or_(trials.c.job.is_(None), trials.c.job.not_in(at_work)), trials.c.purpose != Purpose.PLAN.value)
            .order_by(trials.c.id)
        )  # fmt: skip
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            canonical = load_workloads(connection, {row.workload for row in rows})
        return [
            MeasuredBlock(
                trial=row.id, workload=canonical[row.workload], workload_hash=row.workload,
                layouts=row.candidate["layouts"], template=row.candidate["template"], cores=row.candidate["cores"],
                residency=row.candidate["residency"], first=row.seconds, purpose=Purpose(row.purpose), best=row.best,
                tried=row.tried,
            )
            for row in rows
        ]  # fmt: skip
