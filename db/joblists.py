"""Lists of jobs: filters, orders and cursors, quick at 100,000 jobs.

A filtered list is read as one range of an index per state, and the ranges are merged: whatever the filter and however
many jobs match, a page reads little more than its own rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, literal, or_, select, tuple_

from db.columns import Utc
from db.engine import AnyRow
from db.jobrows import LIGHT, THERE, Job, to_job
from db.paging import Page, cut, decode, encode
from db.schema import jobs
from tuner.errors import UserError
from tuner.types import JobState

# Order -> the columns that decide it, and their types in a cursor. A minus in front turns all of them round.
_ORDERS: dict[str, tuple[tuple[Column[Any], type], ...]] = {
    "created_at": ((jobs.c.created_at, datetime), (jobs.c.id, str)),
    "priority": ((jobs.c.priority, int), (jobs.c.created_at, datetime), (jobs.c.id, str)),
}
ORDERS = tuple(sign + name for name in _ORDERS for sign in ("-", ""))


def list_jobs(
    connection: Connection,
    *,
    state: JobState | Collection[JobState] | None,
    conditions: list[ColumnElement[bool]],
    order: str,
    limit: int,
    cursor: str | None,
) -> Page[Job]:
    """A page of the jobs in these states (None = any) that meet the conditions. ``order`` is one of ORDERS.

    Raises:
        UserError: ``bad-order``, ``bad-cursor``.
    """
    if order not in ORDERS:
        raise UserError(f"Jobs cannot be ordered by {order!r}.", code="bad-order", hint=f"Known: {', '.join(ORDERS)}.")
    descending, by = order.startswith("-"), _ORDERS[order.removeprefix("-")]
    columns = [column for column, _ in by]
    name = f"jobs {order}"
    if cursor is not None:
        values = decode(name, cursor, *(kind for _, kind in by))
        # A cursor that somebody made up may hold more than an INTEGER column does.
        last = tuple_(
            *(
                literal(value, BigInteger() if type(value) is int else column.type)
                for value, column in zip(values, columns, strict=True)
            )
        )
        place = tuple_(*columns)
        conditions = [*conditions, place < last if descending else place > last]
    query = select(*LIGHT).where(THERE).limit(limit + 1)
    query = query.order_by(*(column.desc() if descending else column for column in columns))
    rows: list[AnyRow] = []
    for condition in _ranges(state, bool(conditions) or len(by) > 2):
        rows += connection.execute(query.where(*condition, *conditions))

    def position(row: AnyRow) -> tuple[Any, ...]:
        return tuple(row._mapping[column] for column in columns)

    rows.sort(key=position, reverse=descending)
    page = cut(rows, limit, lambda row: encode(name, *position(row)))
    return Page([to_job(row) for row in page.items], page.next)


def _ranges(state: JobState | Collection[JobState] | None, filtered: bool) -> list[list[ColumnElement[bool]]]:
    """Conditions that together stand for the states, each a range of an index."""
    if state is None and not filtered:
        return [[]]
    states = JobState if state is None else {state} if isinstance(state, JobState) else set(state)
    return [[jobs.c.state == JobState(each).value] for each in states]


def matches(
    *,
    device: str | None = None,
    model: str | None = None,
    question: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> list[ColumnElement[bool]]:
    """The filters of ``Jobs.list`` as conditions."""
    found: list[ColumnElement[bool]] = []
    if device is not None:
        found.append((jobs.c.device if re.fullmatch("[0-9a-f]{16}", device) else jobs.c.device_name) == device)
    if model is not None:
        named = jobs.c.model_name == model
        if re.fullmatch("[0-9a-f]{64}", model):
            found.append(jobs.c.model == model)
        elif re.fullmatch("[0-9a-f]{4,63}", model):
            # Hashes are hexadecimal, so "g" comes after all that begin so; unlike LIKE, a range uses the index.
            found.append(or_(jobs.c.model.between(model, model + "g"), named))
        else:
            found.append(named)
    if question is not None:
        found.append(jobs.c.question == question)
    if created_after is not None:
        found.append(jobs.c.created_at > literal(created_after, Utc()))
    if created_before is not None:
        found.append(jobs.c.created_at < literal(created_before, Utc()))
    return found
