"""Records: the best verified candidate per question, derived from trials and never stored on their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
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
_Candidate = tuple[str, str]  # record key, candidate key
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
    everything known of them. It is verified if a trial of it was compared with the reference and none was ever wrong.
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
    columns = (trials.c.id, trials.c.record_key, trials.c.candidate_key, trials.c.seconds, trials.c.failure_kind)
    relevant = trials.c.samples.is_not(None) | (trials.c.failure_kind == FailureKind.WRONG.value)
    rows: list[Any] = []
    for chunk in chunks(sorted(set(keys))):
        query = select(*columns, trials.c.max_rel_error).where(_at(trials, place), trials.c.record_key.in_(chunk))
        rows += connection.execute(query.where(relevant)).all()
    winners = _winners(connection, rows)
    if not winners:
        return {}
    full = {}
    for ids in chunks(winners):
        full.update({row.id: row for row in connection.execute(select(trials).where(trials.c.id.in_(ids)))})
    hashes = {row.workload for row in full.values()}
    canonical, summaries = load_workloads(connection, hashes), load_summaries(connection, hashes)
    name = connection.execute(select(devices.c.name).where(devices.c.fingerprint == place[0])).scalar() or ""
    found = {}
    for id, (seconds, samples) in winners.items():
        row = full[id]
        record = Record(to_candidate(row, canonical), seconds, samples or len(row.samples), *place)
        found[row.record_key] = FoundRecord(record, id, row.job, row.created_at, summaries[row.workload], name)
    return found


def _winners(connection: Connection, rows: Iterable[Any]) -> dict[int, tuple[float, int]]:
    """Id of the first trial of each question's best verified candidate -> (its median seconds, its samples).

    Of candidates with a single trial the samples are not read, and their number is given as 0.
    """
    tried: dict[_Candidate, list[Any]] = defaultdict(list)
    for row in rows:
        tried[row.record_key, row.candidate_key].append(row)
    verified = {
        key: made
        for key, made in tried.items()
        if all(row.failure_kind is None for row in made) and any(row.max_rel_error is not None for row in made)
    }
    samples = _samples(connection, [row.id for made in verified.values() if len(made) > 1 for row in made])
    best: dict[str, tuple[float, int, int]] = {}
    for (record_key, _), made in verified.items():
        merged = [sample for row in made for sample in samples.get(row.id, ())]
        # Ids break ties: an answer must not change without reason.
        answer = (median(merged) if merged else made[0].seconds, min(row.id for row in made), len(merged))
        best[record_key] = min(best.get(record_key, answer), answer)
    return {id: (seconds, count) for seconds, id, count in best.values()}


def _samples(connection: Connection, ids: Sequence[int]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for chunk in chunks(ids):
        query = select(trials.c.id, trials.c.samples).where(trials.c.id.in_(chunk))
        found.update((row.id, row.samples) for row in connection.execute(query))
    return found


def _at(table: Table, place: _Place) -> ColumnElement[bool]:
    device, toolchain, protocol = place
    return and_(table.c.device == device, table.c.toolchain == toolchain, table.c.protocol == protocol)
