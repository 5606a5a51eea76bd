"""With 20,000 trials every question that is asked while tuning is answered through an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from db_plans import recorded, scans
from db_values import DEVICE, TOOLCHAIN, candidate, good, new_job, put
from sqlalchemy import text

from db.columns import now
from db.rows import trial_row
from db.schema import trials
from db.store import Store
from tuner.types import PROTOCOL

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
        rows.append(row | PLACE | {"job": jobs[number // 1000], "protocol": PROTOCOL, "created_at": now()})
    with store.database.write() as connection:
        connection.execute(trials.insert(), rows)
    with store.database.write() as connection:
        connection.execute(text("ANALYZE"))
    return store


def test_questions_asked_while_tuning_use_indexes(full: Store) -> None:
    job = full.jobs.list(limit=1).items[0].id
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
