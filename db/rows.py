"""How a trial becomes a row and a row a trial again; shared by the stores of trials and of records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from db.schema import workloads
from tuner.types import Candidate, Failure, FailureKind, Purpose, Trial

T = TypeVar("T")

# A candidate's workload is stored once, in its own table.
_STORED = tuple(f.name for f in fields(Candidate) if f.name not in {"workload", "workload_hash"})
_CHUNK = 500  # values in one IN (...): far below what either database takes


def trial_row(trial: Trial) -> dict[str, Any]:
    """The columns of the trials table that the trial itself decides."""
    candidate, failure = trial.candidate, trial.failure
    return {
        "workload": candidate.workload_hash,
        "record_key": candidate.record_key,
        "candidate_key": candidate.key,
        "candidate": {name: getattr(candidate, name) for name in _STORED},
        "purpose": trial.purpose.value,
        "samples": list(trial.samples) or None,
        "seconds": trial.seconds,
        "failure_kind": failure.kind.value if failure else None,
        "failure_message": failure.message if failure else None,
        "failure_stderr": failure.stderr if failure else None,
        "max_rel_error": trial.max_rel_error,
        "build_seconds": trial.build_seconds,
        "measure_seconds": trial.measure_seconds,
    }


def to_trial(row: Any, canonical: Mapping[str, Mapping[str, Any]]) -> Trial:
    """The trial of a row; ``canonical`` maps workload hashes to workloads (see load_workloads)."""
    failure = None
    if row.failure_kind is not None:
        failure = Failure(FailureKind(row.failure_kind), row.failure_message, row.failure_stderr)
    return Trial(
        candidate=to_candidate(row, canonical),
        purpose=Purpose(row.purpose),
        samples=tuple(row.samples or ()),
        failure=failure,
        max_rel_error=row.max_rel_error,
        build_seconds=row.build_seconds,
        measure_seconds=row.measure_seconds,
    )


def to_candidate(row: Any, canonical: Mapping[str, Mapping[str, Any]]) -> Candidate:
    """The candidate of a row, its workload filled back in."""
    return Candidate.from_json(row.candidate | {"workload": canonical[row.workload], "workload_hash": row.workload})


def load_workloads(connection: Connection, hashes: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """Workload hash -> workload. Each is read once however many trials share it."""
    found: dict[str, Mapping[str, Any]] = {}
    for chunk in chunks(sorted(set(hashes))):
        query = select(workloads.c.hash, workloads.c.canonical).where(workloads.c.hash.in_(chunk))
        found.update((row.hash, row.canonical) for row in connection.execute(query))
    return found


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists short enough for one query."""
    iterator = iter(values)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
