"""How a trial becomes a row and a row a trial again; shared by the stores of trials and of records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from db.schema import trials, workloads
from tuner.types import Candidate, Failure, FailureKind, Purpose, Trial

T = TypeVar("T")

# A candidate's workload is stored once, in its own table.
_STORED = tuple(f.name for f in fields(Candidate) if f.name not in {"workload", "workload_hash"})
_CHUNK = 500  # values in one IN (...): far below what either database takes


@dataclass(frozen=True)
class StoredTrial:
    """A trial and where it came from."""

    id: int  # grows with time
    job: str | None  # None once its job is deleted, or if it belonged to none
    device: str  # fingerprint
    toolchain: str
    protocol: str
    created_at: datetime  # UTC
    trial: Trial


@dataclass(frozen=True)
class LightTrial:
    """What a list shows of a trial: nothing that is large."""

    id: int  # grows with time
    workload: str  # hash
    summary: str  # the workload in a few words
    template: str
    knobs: Mapping[str, int]
    cores: int
    purpose: Purpose
    seconds: float | None  # median per call; None for a failed trial
    predicted: float | None  # seconds per call that the cost model expected, if it was asked
    failure_kind: FailureKind | None
    failure_message: str | None
    build_seconds: float
    measure_seconds: float
    created_at: datetime  # UTC


# The columns of a LightTrial.
LIGHT = tuple(
    trials.c[name]
    for name in (
        "id", "workload", "candidate", "purpose", "seconds", "predicted", "failure_kind", "failure_message",
        "build_seconds", "measure_seconds", "created_at",
    )
)  # fmt: skip


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
        "predicted": trial.predicted,
        "failure_kind": failure.kind.value if failure else None,
        "failure_message": failure.message if failure else None,
        "failure_stderr": failure.stderr if failure else None,
        "max_rel_error": trial.max_rel_error,
        "build_seconds": trial.build_seconds,
        "measure_seconds": trial.measure_seconds,
        "calibration": trial.calibration,
        "drift": trial.drift,
    }


def workload_row(candidate: Candidate, summary: str, moment: datetime) -> dict[str, Any]:
    """The row of the workloads table; ``summary`` says it in a few words."""
    return {
        "hash": candidate.workload_hash,
        "canonical": candidate.workload,
        "summary": summary,
        "created_at": moment,
    }


def question_row(candidate: Candidate) -> dict[str, Any]:
    """The columns of the questions table that the candidate decides."""
    return {
        "record_key": candidate.record_key,
        "workload": candidate.workload_hash,
        "precision": candidate.precision,
    }


def to_stored(row: Any, canonical: Mapping[str, Mapping[str, Any]]) -> StoredTrial:
    """The trial of a row with its origin; ``canonical`` as in to_trial."""
    trial = to_trial(row, canonical)
    return StoredTrial(row.id, row.job, row.device, row.toolchain, row.protocol, row.created_at, trial)


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
        predicted=row.predicted,
        calibration=row.calibration,
        drift=row.drift,
    )


def to_candidate(row: Any, canonical: Mapping[str, Mapping[str, Any]]) -> Candidate:
    """The candidate of a row, its workload filled back in."""
    return Candidate.from_json(row.candidate | {"workload": canonical[row.workload], "workload_hash": row.workload})


def to_light(row: Any, summaries: Mapping[str, str]) -> LightTrial:
    """The trial of a row of the LIGHT columns; ``summaries`` maps workload hashes to words (see load_summaries)."""
    return LightTrial(
        id=row.id,
        workload=row.workload,
        summary=summaries[row.workload],
        template=row.candidate["template"],
        knobs=row.candidate["knobs"],
        cores=row.candidate["cores"],
        purpose=Purpose(row.purpose),
        seconds=row.seconds,
        predicted=row.predicted,
        failure_kind=None if row.failure_kind is None else FailureKind(row.failure_kind),
        failure_message=row.failure_message,
        build_seconds=row.build_seconds,
        measure_seconds=row.measure_seconds,
        created_at=row.created_at,
    )


def load_workloads(connection: Connection, hashes: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """Workload hash -> workload. Each is read once however many trials share it."""
    found: dict[str, Mapping[str, Any]] = {}
    for chunk in chunks(sorted(set(hashes))):
        query = select(workloads.c.hash, workloads.c.canonical).where(workloads.c.hash.in_(chunk))
        found.update((row.hash, row.canonical) for row in connection.execute(query))
    return found


def load_summaries(connection: Connection, hashes: Collection[str]) -> dict[str, str]:
    """Workload hash -> the workload in a few words."""
    found: dict[str, str] = {}
    for chunk in chunks(sorted(set(hashes))):
        query = select(workloads.c.hash, workloads.c.summary).where(workloads.c.hash.in_(chunk))
        found.update((row.hash, row.summary) for row in connection.execute(query))
    return found


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists short enough for one query."""
    iterator = iter(values)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
