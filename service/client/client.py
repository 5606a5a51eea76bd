"""The client: every resource of the API as a method. See service.client for how it is used."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote
from uuid import uuid4

import httpx

from service.client.download import fetch
from service.client.sse import parse
from service.client.values import Event, Listing, Model, RemoteJob
from service.client.wire import Wire
from tuner.errors import FusetuneError, InternalError, UserError
from tuner.types import JobSpec

Action = Literal["cancel", "pause", "resume", "retry"]
What = Literal["artifact", "plan", "report", "report.html", "log"]
Sent = Callable[[int, int], None]  # (bytes sent, bytes in all); begins anew when an upload is repeated

STREAM_TRIES = 3  # event streams that give nothing before polling takes their place
QUIET_SECONDS = 45.0  # the server says something on an event stream every 15 s
POLL_SECONDS = 1.0
_CHUNK = 1 << 20  # bytes
_ENDS = {"artifact": ".zip", "plan": ".json", "report": ".json"}


class Client:
    """Talks to one server; to be used by one thread at a time.

    Requests are repeated, with growing pauses, when the connection is lost or the server has too much to do. That is
    safe: what creates a job carries an Idempotency-Key, a model is named by its content, and the rest changes nothing
    when it is done twice.

    Raises from every method: UserError, CandidateError or InternalError with the code, message and hint of the server's
    problem document; InternalError ``server-unreachable``, or ``bad-answer`` where something else answered.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8077",
        token: str | None = None,
        timeout: float = 30.0,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connects nothing yet. ``timeout`` in seconds of silence; ``transport`` and ``sleep`` are for tests."""
        self._wire = Wire(url, token, timeout, transport, sleep)
        self._token = "***" if token else None
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"Client({self._wire.name!r}, token={self._token})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    # models -----------------------------------------------------------------------------------------------------------

    def upload(self, path: Path, name: str | None = None, progress: Sent | None = None) -> Model:
        """Send a model file, unless the server has it already. Raises UserError ``no-model`` if it cannot be read."""
        try:
            with path.open("rb") as file:
                digest, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
                if (known := self._known(digest)) is not None:
                    return known
                headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
                data = self._wire.json(
                    "POST", "models", params={"name": name or path.stem}, headers=headers,
                    body=lambda: _parts(file, size, progress),
                )  # fmt: skip
        except OSError as error:
            raise UserError(f"The model {path} cannot be read: {error.strerror}.", code="no-model") from error
        return Model.from_json(data)

    def _known(self, digest: str) -> Model | None:
        try:
            found = self.model(digest)
        except UserError as error:
            if error.code != "unknown-model":
                raise
            return None
        return found if found.raw.get("file", True) else None  # its file may have been deleted

    def model(self, id: str) -> Model:
        """One model. Raises UserError ``unknown-model``."""
        return Model.from_json(self._wire.json("GET", f"models/{_part(id)}"))

    def models(self, limit: int = 50, cursor: str | None = None) -> Listing[Model]:
        """A page of models."""
        data = self._wire.json("GET", "models", params=_given(limit=limit, cursor=cursor))
        return Listing(tuple(Model.from_json(m) for m in data["items"]), data["next"])

    def delete_model(self, id: str) -> None:
        """Delete a model's file. Raises UserError ``model-in-use``, ``unknown-model``."""
        self._wire.send("DELETE", f"models/{_part(id)}")

    # jobs -------------------------------------------------------------------------------------------------------------

    def submit(
        self, spec: JobSpec, *, priority: int = 0, notes: str | None = None, idempotency_key: str | None = None
    ) -> RemoteJob:
        """Queue a job; the same key gives the same job, however often it is sent. Without one a new key is made."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        body = spec.to_json() | _given(priority=priority or None, notes=notes)
        return RemoteJob.from_json(self._wire.json("POST", "jobs", json=body, headers=headers))

    def job(self, id: str) -> RemoteJob:
        """One job. Raises UserError ``unknown-job``."""
        return RemoteJob.from_json(self._wire.json("GET", f"jobs/{_part(id)}"))

    def jobs(self, limit: int = 50, cursor: str | None = None, **filters: Any) -> Listing[RemoteJob]:
        """A page of jobs, the newest first. Filters as in the API: state, device, model, created_after, order ..."""
        data = self._wire.json("GET", "jobs", params=_given(limit=limit, cursor=cursor, **filters))
        return Listing(tuple(RemoteJob.from_json(j) for j in data["items"]), data["next"])

    def act(self, id: str, action: Action) -> RemoteJob:
        """Cancel, pause, resume or retry. Raises UserError ``wrong-state``, ``unknown-job``."""
        return RemoteJob.from_json(self._wire.json("POST", f"jobs/{_part(id)}:{action}"))

    def delete_job(self, id: str) -> None:
        """Delete a job that has ended; its trials stay. Raises UserError ``wrong-state``, ``unknown-job``."""
        self._wire.send("DELETE", f"jobs/{_part(id)}")

    def trials(self, id: str, **filters: Any) -> Iterator[Mapping[str, Any]]:
        """All trials of a job, read page by page. Filters as in the API: state, limit (of one page) ..."""
        yield from self._pages(f"jobs/{_part(id)}/trials", filters)

    # watching ---------------------------------------------------------------------------------------------------------

    def watch(self, id: str, after: int = 0, patience: float = 60.0) -> Iterator[Event]:
        """The job's events from number ``after`` on, as they happen, until it has ended.

        A lost connection is made again and goes on after the last event seen; where event streams do not get through,
        polling takes their place. Leaving the loop leaves the job alone.

        Raises:
            InternalError: the server could not be reached for ``patience`` seconds.
        """
        address = f"jobs/{_part(id)}/events"
        misses, contact = 0, time.monotonic()
        while True:
            try:
                for event in self._stream(address, after) if misses < STREAM_TRIES else self._poll(id, address, after):
                    misses = 0 if misses < STREAM_TRIES else misses
                    after, contact = event.seq or after, time.monotonic()
                    yield event
                    if event.kind == "end":
                        return
                contact = time.monotonic()
                misses += misses < STREAM_TRIES
            except httpx.TransportError as error:
                lost: FusetuneError = self._wire.unreachable(error)
                if time.monotonic() - contact > patience:
                    raise lost from error
                misses += misses < STREAM_TRIES
            except FusetuneError as error:
                if not self._wire.passes(error) or time.monotonic() - contact > patience:
                    raise
                misses += misses < STREAM_TRIES
            self._sleep(POLL_SECONDS)

    def _stream(self, address: str, after: int) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after:
            headers["Last-Event-ID"] = str(after)
        with self._wire.stream(address, headers=headers, timeout=QUIET_SECONDS) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise InternalError("The server sent no event stream.", code="bad-answer")
            yield from parse(response.iter_lines())

    def _poll(self, id: str, address: str, after: int) -> Iterator[Event]:
        job = self.job(id)  # asked before the events: what happened in between is among them
        data = self._wire.json("GET", address, params={"after": after}, headers={"Accept": "application/json"})
        for item in data["items"]:
            yield Event(item["seq"], item["kind"], item["data"])
        if job.ended and not data["items"]:
            yield Event(after, "end", {"state": job.state.value, "reason": job.reason})

    # the rest ---------------------------------------------------------------------------------------------------------

    def download(self, id: str, what: What = "artifact", to: Path | None = None, *, format: str | None = None) -> Path:
        """Fetch one of a job's files into ``to``: a file, a folder, or None for the server's name for it, here.

        ``format`` is that of a log. The file appears whole or not at all; its hash is checked where the server names
        it. Returns where it is. Raises UserError ``no-file``, ``not-finished``, ``bad-output`` among others.
        """
        name = f"fusetune-{_part(id)}-{what}{_ENDS.get(what, '')}"
        return fetch(self._wire, f"jobs/{_part(id)}/{what}", _given(format=format), to, name)

    def report(self, id: str) -> Mapping[str, Any]:
        """The report of a job. Raises UserError ``no-file``, ``not-finished``, ``unknown-job``."""
        found: Mapping[str, Any] = self._wire.json("GET", f"jobs/{_part(id)}/report")
        return found

    def devices(self) -> tuple[Mapping[str, Any], ...]:
        """All devices the server knows."""
        return tuple(self._pages("devices", {}))

    def records(self, **filters: Any) -> Iterator[Mapping[str, Any]]:
        """Best known kernels. Filters as in the API: workload, device, precision."""
        yield from self._pages("records", filters)

    def _pages(self, address: str, filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        cursor: str | None = None
        while True:
            data = self._wire.json("GET", address, params=_given(**filters, cursor=cursor))
            yield from data["items"]
            cursor = data.get("next")
            if cursor is None:
                return


def _parts(file: IO[bytes], size: int, progress: Sent | None) -> Iterator[bytes]:
    file.seek(0)
    sent = 0
    while chunk := file.read(_CHUNK):
        yield chunk
        sent += len(chunk)
        if progress is not None:
            progress(sent, size)


def _part(id: str) -> str:
    """An id as one part of a path. Raises UserError for what would be another address."""
    if not id or id in {".", ".."}:
        raise UserError(f"{id!r} is no id.", code="bad-id")
    return quote(id, safe="")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
