"""The tuning log of a job in the formats that other tools read.

JSON lines and CSV are streamed from the trials table, a page at a time; an Optuna journal and, for jobs that have not
ended with one, a MetaSchedule database come from child processes (see service.exports.produce).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import IO, TYPE_CHECKING

from db.blobs import Blobs
from db.jobs import Job
from db.store import Store
from db.urls import full_url
from service.exports import trials_csv
from service.exports.produce import Gone, Production, never, produce
from tuner.errors import UserError

if TYPE_CHECKING:
    from service.settings import Settings

FORMATS = {  # name -> media type, end of the file's name
    "metaschedule": ("application/zip", ".metaschedule.zip"),
    "jsonl": ("application/x-ndjson", ".trials.jsonl"),
    "csv": ("text/csv; charset=utf-8", ".trials.csv"),
    "optuna": ("application/octet-stream", ".optuna.log"),
}
_PROGRAMS = {"optuna": "service.exports.optuna_journal", "metaschedule": "service.exports.metaschedule"}
PAGE = 500  # trials
_CHUNK = 1 << 18  # bytes

Page = tuple[bytes, int | None]  # lines, and the id of the last trial; None at the end


async def log_stream(
    fmt: str, job: Job, store: Store, settings: Settings, gone: Gone = never
) -> tuple[str, str, AsyncIterator[bytes]]:
    """Media type, file name and bytes of a job's tuning log, as far as the job is.

    ``gone`` says whether the client has left; it is asked while a child process works.

    Raises:
        UserError: ``unknown-format``; what ``produce`` raises.
        InternalError: what ``produce`` raises.
    """
    if fmt not in FORMATS:
        raise UserError(f"There is no log format {fmt!r}.", code="unknown-format", hint=f"Known: {', '.join(FORMATS)}.")
    media_type, suffix = FORMATS[fmt]
    name = f"fusetune-{job.id}{suffix}"
    if fmt == "jsonl":
        return media_type, name, _pages(store, job, json_page)
    if fmt == "csv":
        return media_type, name, _pages(store, job, csv_page, trials_csv.header())
    if fmt == "metaschedule":
        files = await asyncio.to_thread(store.jobs.files, job.id)
        if "metaschedule.zip" in files:
            blobs = Blobs(settings.blobs, store.database, settings.quota)
            return media_type, name, _read(await asyncio.to_thread(blobs.open, files["metaschedule.zip"].sha256))
    source = _source(job)
    count = await asyncio.to_thread(store.trials.count, source)
    what = Production(_PROGRAMS[fmt], source, f"{count.measured}", suffix)
    return media_type, name, _read(await produce(settings.data / "exports", what, full_url(settings.db), gone))


def json_page(store: Store, job: str, after: int) -> Page:
    """A page as lines of trials.jsonl."""
    page = store.trials.page(job, after, PAGE)
    text = "".join(json.dumps(stored.trial.to_json()) + "\n" for stored in page)
    return text.encode(), page[-1].id if page else None


def csv_page(store: Store, job: str, after: int) -> Page:
    """A page as lines of CSV, without a header."""
    page = store.trials.page(job, after, PAGE)
    summaries = {light.workload: light.summary for light in store.trials.page(job, after, PAGE, light=True)}
    rows = (
        trials_csv.row(s.id, s.created_at, s.trial, summaries.get(s.trial.candidate.workload_hash, "")) for s in page
    )
    return trials_csv.encode(rows), page[-1].id if page else None


def _source(job: Job) -> str:
    """The job whose trials these are: one answered at once from the store has none of its own."""
    return job.answered_by if job.reused and job.answered_by else job.id


async def _pages(
    store: Store, job: Job, read: Callable[[Store, str, int], Page], head: bytes = b""
) -> AsyncIterator[bytes]:
    if head:
        yield head
    after: int | None = 0
    while after is not None:
        text, after = await asyncio.to_thread(read, store, _source(job), after)
        if text:
            yield text


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
