"""What the programs that write a tuning log have in common: arguments, the leash, errors as JSON.

Such a program runs as a child of the server, which may not load Optuna or TVM itself. The child reads the database's
URL from the first line of its standard input (a command line is seen by every user of the machine, and the URL may
hold a password), and ends as soon as that input closes: it never outlives a server that was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from db.store import Store
from db.trials import StoredTrial
from tuner.errors import FusetuneError, UserError

PAGE = 500  # trials read at a time

Write = Callable[[Store, str, Path], None]  # (store, job, file): writes the file


def main(name: str, write: Write) -> int:
    """Run the program: 0 = the file is written, 2 = the last line of standard output says why not."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}")
    parser.add_argument("--db", metavar="URL", help="default: the first line of the standard input")
    parser.add_argument("--job", required=True, metavar="ID")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    args = parser.parse_args()
    from tuner.lifeline import hold

    url = args.db
    if url is None:
        url = sys.stdin.readline().strip()
        hold(sys.stdin.fileno())
        os.nice(10)  # somebody may be measuring
    try:
        with Store.open(url) as store:
            write(store, args.job, args.out)
    except FusetuneError as error:
        print(json.dumps({"code": error.code, "message": error.message, "hint": error.hint}), flush=True)
        return 2
    return 0


def trials_of(store: Store, job: str) -> Iterator[StoredTrial]:
    """The job's trials in the order they were stored; equal workloads are one object in memory."""
    workloads: dict[str, Any] = {}
    after = 0
    while page := store.trials.page(job, after, PAGE):
        for stored in page:
            c = stored.trial.candidate
            shared = workloads.setdefault(c.workload_hash, c.workload)
            yield replace(stored, trial=replace(stored.trial, candidate=replace(c, workload=shared)))
        after = page[-1].id


def summaries(store: Store, job: str) -> dict[str, str]:
    """Workload hash -> the workload in a few words."""
    found: dict[str, str] = {}
    after = 0
    while page := store.trials.page(job, after, PAGE, light=True):
        found.update((light.workload, light.summary) for light in page)
        after = page[-1].id
    return found


def known_job(store: Store, job: str) -> Any:
    """The job. Raises UserError (``unknown-job``)."""
    found = store.jobs.get(job)
    if found is None:
        raise UserError(f"There is no job {job!r}.", code="unknown-job")
    return found
