"""Records: the best verified candidate per question, derived from trials and never stored on their own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, func, or_, select

from db.columns import Words
from db.engine import Database
from db.paging import Page, decode, encode
from db.rows import chunks, load_summaries, load_workloads, to_candidate
from db.schema import devices, questions, trials, workloads
from tuner.types import PROTOCOL, FailureKind, Record

_Place = tuple[str, str, str]  # device fingerprint, toolchain, protocol: times of two places are not comparable
_PLACE = ("device", "toolchain", "protocol")
_Answer = tuple[float, int, int]  # median seconds of a candidate, id of its first trial, samples
_FASTEST = 8  # trials of a question that are looked at first
_AT_ONCE = 20  # questions looked at together at least: many may turn out to have no verified candidate


@dataclass(frozen=True)
class FoundRecord:
    """A record and where it came from."""

    record: Record
    trial: int  # id of the first trial of the winning candidate
    job: str | None  # that trial's; None once the job is deleted
    found_at: datetime  # when that trial was made, UTC
    summary: str  # the workload in a few words
    device_name: str  # what users call the device


class Records:
    """Questions about the trials table.

    A candidate's time is the median over all samples of all its trials, so that finalists measured again count with
    everything known of them, but for trials made while the device had drifted. It is verified if a trial of it was
    compared with the reference and none was ever wrong.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def best(
        self, record_keys: Collection[str], *, device: str, toolchain: str, protocol: str = PROTOCOL
    ) -> dict[str, Record]:
        """Record key -> the record, for those keys that have a verified candidate. ``device`` is a fingerprint."""
        with self._database.read() as connection:
            found = _records(connection, (device, toolchain, protocol), record_keys)
        return {key: each.record for key, each in found.items()}

    def search(
        self,
        *,
        workload_hash: str | None = None,
        device: str | None = None,
        precision: str | None = None,
        words: str | None = None,
        template: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[FoundRecord]:
        """The records of a workload, of a device, of a precision, or of all, those measured last first.

        ``workload_hash`` may be the beginning of one; ``device`` is a fingerprint or a name; ``words`` stand, in this
        order and whatever their case, in the workload's summary.

        Raises:
            UserError: the cursor is of no list of records (``bad-cursor``).
        """
        conditions: list[ColumnElement[bool]] = []
        if workload_hash is not None:
            # Hashes are hexadecimal, so "g" comes after all that begin so; unlike LIKE, a range uses the index.
            beginning = workload_hash.lower()
            conditions.append(questions.c.workload.between(beginning, beginning + "g"))
        if device is not None:
            named = select(devices.c.fingerprint).where(or_(devices.c.fingerprint == device, devices.c.name == device))
            conditions.append(questions.c.device.in_(named))
        if precision is not None:
            conditions.append(questions.c.precision == precision)
        if words is not None:
            # Few workloads, many questions about each: these are found by their index afterwards.
            about = func.lower(workloads.c.summary, type_=Words()).contains(words.lower(), autoescape=True)
            conditions.append(questions.c.workload.in_(select(workloads.c.hash).where(about)))
        last = None if cursor is None else decode("records", cursor, int)[0]
        found: list[tuple[int, FoundRecord]] = []
        with self._database.read() as connection:
            while len(found) <= limit:
                wanted = max(_AT_ONCE, limit + 1 - len(found))
                below = [] if last is None else [questions.c.last_trial < last]
                query = select(questions).where(*conditions, *below).order_by(questions.c.last_trial.desc())
                rows = connection.execute(query.limit(wanted)).all()
                found += [
                    (position, each)
                    for position, each in _answers(connection, rows)
                    if template is None or each.record.candidate.template == template
                ]
                if len(rows) < wanted:
                    break
                last = rows[-1].last_trial
        more = len(found) > limit and limit > 0
        return Page([each for _, each in found[:limit]], encode("records", found[limit - 1][0]) if more else None)

    def known_questions(
        self, groups: Sequence[Collection[str]], *, device: str, toolchain: str, protocol: str = PROTOCOL
    ) -> int:
        """In how many of these groups at least one record key has a successful trial. ``device`` is a fingerprint."""
        known: set[str] = set()
        with self._database.read() as connection:
            for chunk in chunks(sorted({key for group in groups for key in group})):
                place = _at(questions, (device, toolchain, protocol))
                query = select(questions.c.record_key).where(place, questions.c.record_key.in_(chunk))
                known.update(connection.execute(query).scalars())
        return sum(not known.isdisjoint(group) for group in groups)


def _answers(connection: Connection, rows: Sequence[Any]) -> list[tuple[int, FoundRecord]]:
    """The records that rows of the questions table have, in their order, each with the row's last trial."""
    by_place: dict[_Place, list[str]] = defaultdict(list)
    for row in rows:
        by_place[row.device, row.toolchain, row.protocol].append(row.record_key)
    found = {
        (place, key): each
        for place, keys in by_place.items()
        for key, each in _records(connection, place, keys).items()
    }  # fmt: skip
    asked = (((row.device, row.toolchain, row.protocol), row.record_key) for row in rows)
    return [(row.last_trial, found[key]) for row, key in zip(rows, asked, strict=True) if key in found]


def _records(connection: Connection, place: _Place, keys: Collection[str]) -> dict[str, FoundRecord]:
    """Record key -> the record at one place, for those that have one."""
    winners = _winners(connection, place, keys)
    full = {}
    for ids in chunks([id for _, id, _ in winners.values()]):
        full.update({row.id: row for row in connection.execute(select(trials).where(trials.c.id.in_(ids)))})
    hashes = {row.workload for row in full.values()}
    canonical, summaries = load_workloads(connection, hashes), load_summaries(connection, hashes)
    name = connection.execute(select(devices.c.name).where(devices.c.fingerprint == place[0])).scalar() or ""
    found = {}
    for key, (seconds, id, samples) in winners.items():
        row = full[id]
        record = Record(to_candidate(row, canonical), seconds, samples, *place)
        found[key] = FoundRecord(record, id, row.job, row.created_at, summaries[row.workload], name)
    return found


def _winners(connection: Connection, place: _Place, keys: Collection[str]) -> dict[str, _Answer]:
    """Record key -> its best verified candidate, without reading the many trials of each question that are slow.

    The median over all samples of a candidate is never below the least of its trials' medians. So a candidate that is
    better than the last of a question's fastest trials is better than all whose trials are not among these.
    """
    fastest: dict[str, list[Any]] = {}
    for chunk in chunks(sorted(set(keys))):
        asked = select(questions.c.record_key).where(_at(questions, place), questions.c.record_key.in_(chunk))
        fastest.update({key: _fastest(connection, place, key) for key in connection.execute(asked).scalars().all()})
    contenders = {row.candidate_key for rows in fastest.values() for row in rows}
    winners: dict[str, _Answer] = {}
    for chunk in chunks(sorted(contenders)):
        # By one index; the place is compared afterwards, for it would draw SQLite to an index that says too little.
        winners = _better(winners, _tried(connection, place, trials.c.candidate_key.in_(chunk)))
    for key, rows in fastest.items():
        if len(rows) == _FASTEST and not (key in winners and winners[key][0] < rows[-1].seconds):
            question = and_(_at(trials, place), trials.c.record_key == key)
            winners = _better(winners, _tried(connection, place, question))
    return winners


def _fastest(connection: Connection, place: _Place, key: str) -> list[Any]:
    measured = trials.c.seconds > -math.inf  # and not NULL; as a range it is a part of the index that is read
    query = select(trials.c.candidate_key, trials.c.seconds).where(
        _at(trials, place), trials.c.record_key == key, measured, trials.c.drift.is_(None)
    )
    return list(connection.execute(query.order_by(trials.c.seconds).limit(_FASTEST)))


def _tried(connection: Connection, place: _Place, condition: ColumnElement[bool]) -> Iterable[list[Any]]:
    """The trials at the place that meet the condition and say something of their candidate, by candidate."""
    columns = ("id", "record_key", "candidate_key", "samples", "failure_kind", "max_rel_error", *_PLACE)
    telling = trials.c.samples.is_not(None) | (trials.c.failure_kind == FailureKind.WRONG.value)
    steady = trials.c.drift.is_(None)
    by_candidate: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(select(*(trials.c[name] for name in columns)).where(condition, telling, steady)):
        if tuple(getattr(row, name) for name in _PLACE) == place:
            by_candidate[row.candidate_key].append(row)
    return by_candidate.values()


def _better(winners: Mapping[str, _Answer], tried: Iterable[list[Any]]) -> dict[str, _Answer]:
    """The winners, and those of these candidates that are verified and better."""
    best = dict(winners)
    for rows in tried:
        if any(row.failure_kind is not None for row in rows) or all(row.max_rel_error is None for row in rows):
            continue
        merged = [sample for row in rows for sample in row.samples]
        # Ids break ties: an answer must not change without reason.
        answer = (median(merged), min(row.id for row in rows), len(merged))
        best[rows[0].record_key] = min(best.get(rows[0].record_key, answer), answer)
    return best


def _at(table: Table, place: _Place) -> ColumnElement[bool]:
    device, toolchain, protocol = place
    return and_(table.c.device == device, table.c.toolchain == toolchain, table.c.protocol == protocol)
