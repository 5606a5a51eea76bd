"""Errors that are not the driver's: an exhausted pool, values that no column takes."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime

import pytest
from db_values import new_job
from sqlalchemy import column, select, text
from sqlalchemy.pool import QueuePool

from db.engine import CONNECTIONS
from db.store import Store
from tuner.errors import InternalError


def test_a_pool_without_connections_is_a_busy_database(store: Store) -> None:
    pool = store.database.engine.pool
    assert isinstance(pool, QueuePool)
    pool._timeout = 0.01
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            held.enter_context(store.database.read())
        for way in (store.database.read, store.database.write):
            with pytest.raises(InternalError) as caught, way():
                pass
            assert caught.value.code == "database-busy"
    assert store.jobs.list().items == []


def test_no_error_of_the_library_leaves_untranslated(store: Store) -> None:
    with pytest.raises(InternalError) as caught, store.database.read() as connection:
        connection.execute(select(column("x")).where(text(":y = 1")))
    assert caught.value.code == "database"


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_the_ends_of_the_calendar_may_be_asked_for(store: Store, moment: str) -> None:
    id, when = new_job(store), datetime.fromisoformat(moment)
    found = [job.id for job in store.jobs.list(created_after=when).items]
    assert found == ([id] if when.year == 1 else [])
    assert len(store.jobs.list(created_before=when).items) == 1 - len(found)
