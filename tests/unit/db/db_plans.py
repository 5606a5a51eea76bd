"""What the databases say about how they answer: the statements sent, and the faults of their plans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from db.store import Store


@contextmanager
def recorded(store: Store, words: str = "FROM trials") -> Iterator[list[tuple[str, Any]]]:
    """The statements with these words that are sent meanwhile, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if words in statement:
            sent.append((statement, parameters))

    event.listen(store.database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(store.database.engine, "before_cursor_execute", note)


def scans(store: Store, statement: str, parameters: Any, *, small: bool = False) -> list[str]:
    """The tables that the plan of a statement reads without an index.

    ``small`` tables PostgreSQL rightly reads as a whole; it is asked what it would do if that were dear.
    """
    if store.database.sqlite:
        return [line for line in _sqlite_plan(store, statement, parameters) if line.startswith("SCAN")]
    return [kind for kind in _postgres_plan(store, statement, parameters, small) if kind == "Seq Scan"]


def sorts(store: Store, statement: str, parameters: Any) -> list[str]:
    """The steps of a plan that put rows in order, which an index in the right order would spare."""
    if store.database.sqlite:
        return [line for line in _sqlite_plan(store, statement, parameters) if "B-TREE" in line]
    return [kind for kind in _postgres_plan(store, statement, parameters, sorting=False) if "Sort" in kind]


def _sqlite_plan(store: Store, statement: str, parameters: Any) -> list[str]:
    with store.database.read() as connection:
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]


def _postgres_plan(
    store: Store, statement: str, parameters: Any, small: bool = False, sorting: bool = True
) -> list[str]:
    with store.database.read() as connection:
        if not sorting:  # a few rows it rightly sorts: the question is whether an index could spare that
            connection.exec_driver_sql("SET LOCAL enable_sort = off")
        if small:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar()
    return list(_node_types(json.loads(plan) if isinstance(plan, str) else plan))


def _node_types(plan: Any) -> Iterator[str]:
    if isinstance(plan, list):
        for part in plan:
            yield from _node_types(part)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            yield plan["Node Type"]
        for key in ("Plan", "Plans"):
            yield from _node_types(plan.get(key))
