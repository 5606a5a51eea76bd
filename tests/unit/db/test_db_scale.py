"""With 20,000 trials every question that is asked while tuning is answered through an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from db_values import DEVICE, TOOLCHAIN, candidate, good, new_job, put
from sqlalchemy import event, text

from db.columns import now
from db.rows import trial_row
from db.schema import trials
from db.store import Store

PLACE = {"device": DEVICE.fingerprint, "toolchain": TOOLCHAIN}


@pytest.fixture
def full(store: Store) -> Store:
    """20 jobs of 1000 trials; 400 questions with 50 trials each; the tables' statistics are up to date."""
    jobs = [new_job(store) for _ in range(20)]
    for workload in range(400):
        put(store, None, good(99_999, 1.0, workload=workload))
    rows = []
    for number in range(20_000):
        row = trial_row(good(number, 1e-3 + number * 1e-9, workload=number % 400))
        rows.append(row | PLACE | {"job": jobs[number // 1000], "protocol": "1", "created_at": now()})
    with store.database.write() as connection:
        connection.execute(trials.insert(), rows)
    with store.database.write() as connection:
        connection.execute(text("ANALYZE"))
    return store


@contextmanager
def recorded(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are sent meanwhile, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM trials" in statement:
            sent.append((statement, parameters))

    event.listen(store.database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(store.database.engine, "before_cursor_execute", note)


def scans(store: Store, statement: str, parameters: Any) -> list[str]:
    """The tables that the plan of a statement reads without an index."""
    with store.database.read() as connection:
        if store.database.sqlite:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return [row[3] for row in rows if row[3].startswith("SCAN")]
        plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar()
        return [kind for kind in _node_types(json.loads(plan) if isinstance(plan, str) else plan) if kind == "Seq Scan"]


def _node_types(plan: Any) -> Iterator[str]:
    if isinstance(plan, list):
        for part in plan:
            yield from _node_types(part)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            yield plan["Node Type"]
        for key in ("Plan", "Plans"):
            yield from _node_types(plan.get(key))


def test_questions_asked_while_tuning_use_indexes(full: Store) -> None:
    job = full.jobs.list(limit=1)[0].id
    keys = [candidate(workload=workload).record_key for workload in range(20)]
    questions: dict[str, Callable[[], Any]] = {
        "page": lambda: full.trials.page(job),
        "later page": lambda: full.trials.page(job, after=19_900, limit=10),
        "count": lambda: full.trials.count(job),
        "best": lambda: full.records.best(keys, **PLACE),
        "known": lambda: full.trials.known(keys, **PLACE),
        "samples": lambda: full.trials.samples(DEVICE.fingerprint, TOOLCHAIN, limit=100),
    }
    answers = {}
    for name, ask in questions.items():
        with recorded(full) as sent:
            answers[name] = ask()
        assert sent, name
        for statement, parameters in sent:
            assert scans(full, statement, parameters) == [], f"{name}: {statement}"
    assert len(answers["page"]) == 1000
    assert len(answers["best"]) == 20
    assert len(answers["known"]) == 20 * 51
    assert len(answers["samples"]) == 100
