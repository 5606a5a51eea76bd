"""Live events: one task asks the database for all watched jobs at once and hands what is new to every watcher.

A watcher first reads what it missed by itself, page by page, then joins the job's channel at exactly the event where
it stands. Channels hand on ready-made bytes, so that a further watcher costs one write per tick and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from anyio import CapacityLimiter, to_thread

from db.events import Event
from db.schema import ENDED
from service.api.jsonio import dumps
from service.api.metrics import Metrics
from tuner.errors import FusetuneError, UserError

TICK = 0.5  # seconds between two looks at the database
CROWD = 50  # above so many watchers a look every second is enough
PAGE = 1000  # events read at once
BACKLOG = 64  # batches that may wait for a slow client before it is dropped
SILENCE = 15.0  # seconds without an event after which a comment is sent, so that proxies keep the connection
WATCHERS = 2000  # of one process
_log = logging.getLogger(__name__)

Said = Mapping[str, Any]  # {"state": ..., "reason": ...}
Frame = tuple[int, bytes, Said | None]  # number, its bytes, and what it says of the job's state, if anything


class EventSource(Protocol):
    """The part of the events store that is read here."""

    def after(self, job: str, seq: int = 0, limit: int = 1000) -> list[Event]:
        """Events of one job above a number."""

    def news(self, positions: Mapping[str, int], limit: int = 1000) -> dict[str, list[Event]]:
        """New events of several jobs, each above its own number."""


class Dropped(Exception):
    """The watcher was cut off: it read too slowly, or the server closes."""


class _Watcher:
    """One event stream's end: batches that wait for it."""

    def __init__(self) -> None:
        self.waiting: deque[list[Frame]] = deque()
        self.cut = False
        self._news = asyncio.Event()

    def put(self, frames: list[Frame]) -> bool:
        """Add a batch; False if the watcher is too far behind."""
        if len(self.waiting) >= BACKLOG:
            self.close()
            return False
        self.waiting.append(frames)
        self._news.set()
        return True

    def close(self) -> None:
        self.cut = True
        self._news.set()

    async def take(self) -> list[Frame]:
        """All that waits, or an empty list after a silence."""
        if not self.waiting and not self.cut:
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENCE):
                    await self._news.wait()
        self._news.clear()
        if self.cut:
            raise Dropped
        frames = [frame for batch in self.waiting for frame in batch]
        self.waiting.clear()
        return frames


@dataclass
class _Channel:
    """A watched job."""

    position: int  # the last event that was handed on
    watchers: set[_Watcher] = field(default_factory=set)


class Hub:
    """The watchers of one process. All methods belong to its event loop."""

    def __init__(self, source: EventSource, encode: Callable[[Event], bytes], metrics: Metrics) -> None:
        """``encode`` makes an event's bytes on the wire."""
        self._source, self._encode, self._metrics = source, encode, metrics
        self._channels: dict[str, _Channel] = {}
        self._poller: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)  # apart from the requests' threads: their load must not delay events
        self._readers = CapacityLimiter(4)
        self._streams: set[_Watcher] = set()
        self._closed = False

    def frames(self, job: str, after: int, said: Said) -> AsyncIterator[bytes | None]:
        """The job's events above ``after``, as they come; None after each silence. Once the job has ended and all was
        given, an event ``end`` is the last.

        ``said``: the job's state and reason before this call; without events above ``after`` nothing else says that it
        has ended.

        Raises:
            UserError: too many watchers, or the server closes (``server-busy``, ``server-closing``).
            Dropped: this watcher was cut off.
        """
        if self._closed:
            raise UserError("The server is closing.", code="server-closing")
        if len(self._streams) >= WATCHERS:
            raise UserError(f"More than {WATCHERS} event streams are open.", code="server-busy")
        return self._stream(job, after, said)

    async def _stream(self, job: str, after: int, said: Said) -> AsyncIterator[bytes | None]:
        watcher = _Watcher()
        self._streams.add(watcher)
        self._metrics.watchers.set(len(self._streams))
        try:
            async for chunk in self._follow(watcher, job, after, said):
                yield chunk
        finally:
            self._leave(job, watcher)
            self._streams.discard(watcher)
            self._metrics.watchers.set(len(self._streams))

    async def _follow(self, watcher: _Watcher, job: str, after: int, said: Said) -> AsyncIterator[bytes | None]:
        while True:
            events = await to_thread.run_sync(self._source.after, job, after, PAGE, limiter=self._readers)
            if watcher.cut:
                raise Dropped
            if events:
                frames = self._frames(events)
                after = frames[-1][0]
                said = _last(frames) or said
                yield b"".join(frame[1] for frame in frames)
            if len(events) == PAGE:
                continue
            if said["state"] in ENDED:
                yield _end(said)
                return
            # Nothing is awaited between this look and joining, so that no event falls between the two.
            channel = self._channels.setdefault(job, _Channel(after))
            if channel.position <= after:
                channel.watchers.add(watcher)
                break
        self._poll()
        while said["state"] not in ENDED:
            frames = [frame for frame in await watcher.take() if frame[0] > after]
            if not frames:
                yield None
                continue
            after = frames[-1][0]
            said = _last(frames) or said
            yield b"".join(frame[1] for frame in frames)
        yield _end(said)

    def close(self) -> None:
        """End all streams now and take no more."""
        self._closed = True
        if self._poller is not None:
            self._poller.cancel()
        for watcher in self._streams:
            watcher.close()

    def _leave(self, job: str, watcher: _Watcher) -> None:
        channel = self._channels.get(job)
        if channel is not None:
            channel.watchers.discard(watcher)
            if not channel.watchers:
                del self._channels[job]

    def _poll(self) -> None:
        """Start the poller unless it runs; it ends by itself when nobody watches."""
        if (self._poller is None or self._poller.done()) and not self._closed:
            self._poller = asyncio.get_running_loop().create_task(self._loop(), name="event hub")

    async def _loop(self) -> None:
        while self._channels:
            await asyncio.sleep(TICK if len(self._streams) <= CROWD else 2 * TICK)
            positions = {job: channel.position for job, channel in self._channels.items()}
            if not positions:
                return
            try:
                news = await to_thread.run_sync(self._source.news, positions, PAGE, limiter=self._thread)
            except FusetuneError as error:  # busy or away for a moment: watchers wait, nothing is lost
                _log.warning("events cannot be read: %s", error)
                continue
            except Exception:  # a defect must not leave all watchers in silence
                _log.exception("events cannot be read because of a defect")
                continue
            for job, events in news.items():
                channel = self._channels.get(job)
                if channel is None or not events:
                    continue
                try:
                    self._hand_on(channel, self._frames(events))
                except Exception:
                    _log.exception("events cannot be handed on because of a defect", extra={"job": job})
                    for watcher in channel.watchers:  # they ask again, and see for themselves
                        watcher.close()

    def _hand_on(self, channel: _Channel, frames: list[Frame]) -> None:
        channel.position = max(channel.position, frames[-1][0])
        for watcher in list(channel.watchers):
            if not watcher.put(frames):
                channel.watchers.discard(watcher)
                self._metrics.dropped.inc()

    def _frames(self, events: Sequence[Event]) -> list[Frame]:
        return [(event.seq, self._encode(event), _says(event)) for event in events]


def _says(event: Event) -> Said | None:
    return event.payload if event.kind == "state" else None


def _last(frames: Sequence[Frame]) -> Said | None:
    """The newest word on the state among these events; a retry makes an ended job go on."""
    return next((said for _, _, said in reversed(frames) if said is not None), None)


def _end(said: Said) -> bytes:
    return b"event: end\ndata: %s\n\n" % dumps({"state": said["state"], "reason": said.get("reason")})
