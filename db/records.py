"""Records: the best verified candidate per question, derived from trials and never stored on their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, select

from db.engine import Database
from db.rows import chunks, load_workloads, to_candidate
from db.schema import trials
from tuner.types import PROTOCOL, FailureKind, Record

_Place = tuple[str, str, str]  # device fingerprint, toolchain, protocol: times of two places are not comparable
_Question = tuple[_Place, str]  # and the record key


@dataclass(frozen=True)
class _Best:
    candidate: str  # candidate key
    seconds: float
    samples: int


class Records:
    """Questions about the trials table.

    A candidate's time is the median over all samples of all its trials, so that finalists measured again count with
    everything known of them. It is verified if a trial of it was compared with the reference and none was ever wrong.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def best(
        self, record_keys: Collection[str], *, device: str, toolchain: str, protocol: str = PROTOCOL
    ) -> dict[str, Record]:
        """Record key -> the record, for those keys that have a verified candidate. ``device`` is a fingerprint."""
        found: dict[str, Record] = {}
        with self._database.read() as connection:
            for chunk in chunks(sorted(set(record_keys))):
                place = _at((device, toolchain, protocol))
                for record in _records(connection, place, trials.c.record_key.in_(chunk)):
                    found[record.candidate.record_key] = record
        return found

    def search(self, *, workload_hash: str | None = None, device: str | None = None, limit: int = 100) -> list[Record]:
        """The records of a workload, of a device, or of all, those measured last first.

        ``workload_hash`` may be the beginning of one; ``device`` is a fingerprint.
        """
        conditions: list[ColumnElement[bool]] = [trials.c.samples.is_not(None)]
        if workload_hash is not None:
            # Hashes are hexadecimal, so "g" comes after all that begin so; unlike LIKE, a range uses the index.
            conditions.append(trials.c.workload.between(workload_hash, workload_hash + "g"))
        if device is not None:
            conditions.append(trials.c.device == device)
        columns = (trials.c.device, trials.c.toolchain, trials.c.protocol, trials.c.record_key)
        # Newest trials first until enough questions are met; a question whose candidates are all unverified gives none.
        query = select(*columns).where(*conditions).order_by(trials.c.id.desc())
        found: list[Record] = []
        with self._database.read() as connection:
            seen: set[_Question] = set()
            rows = connection.execution_options(yield_per=1000).execute(query)
            for row in rows:
                question = ((row.device, row.toolchain, row.protocol), row.record_key)
                if question in seen:
                    continue
                seen.add(question)
                found += _records(connection, _at(question[0]), trials.c.record_key == question[1])
                if len(found) >= limit:
                    rows.close()
                    break
        return found


def _records(connection: Connection, *conditions: ColumnElement[bool]) -> list[Record]:
    """The records among the trials that meet the conditions, all at one place."""
    columns = (trials.c.record_key, trials.c.candidate_key, trials.c.seconds, trials.c.failure_kind)
    relevant = trials.c.samples.is_not(None) | (trials.c.failure_kind == FailureKind.WRONG.value)
    rows = connection.execute(
        select(trials.c.id, *columns, trials.c.samples, trials.c.max_rel_error).where(*conditions, relevant)
    ).all()
    winners = _winners(rows)
    if not winners:
        return []
    full = {}
    for chunk in chunks(winners):
        query = select(
            trials.c.id, trials.c.workload, trials.c.candidate, trials.c.device, trials.c.toolchain, trials.c.protocol
        )
        full.update({row.id: row for row in connection.execute(query.where(trials.c.id.in_(chunk)))})
    canonical = load_workloads(connection, {row.workload for row in full.values()})
    return [
        Record(to_candidate(row, canonical), seconds, samples, row.device, row.toolchain, row.protocol)
        for id, (seconds, samples) in winners.items()
        for row in (full[id],)
    ]


def _winners(rows: Iterable[Any]) -> dict[int, tuple[float, int]]:
    """Id of one trial of each question's best verified candidate -> (its median seconds, its samples)."""
    by_candidate: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        by_candidate[row.record_key, row.candidate_key].append(row)
    best: dict[str, tuple[float, int, int]] = {}
    for (record_key, _), tried in by_candidate.items():
        if any(row.failure_kind is not None for row in tried) or all(row.max_rel_error is None for row in tried):
            continue
        merged = [sample for row in tried for sample in row.samples]
        # Ids break ties: an answer must not change without reason.
        answer = (median(merged), min(row.id for row in tried), len(merged))
        best[record_key] = min(best.get(record_key, answer), answer)
    return {id: (seconds, samples) for seconds, id, samples in best.values()}


def _at(place: _Place) -> ColumnElement[bool]:
    device, toolchain, protocol = place
    return and_(trials.c.device == device, trials.c.toolchain == toolchain, trials.c.protocol == protocol)
