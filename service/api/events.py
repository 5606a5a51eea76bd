"""Routes of a job's events: a stream of server-sent events, or plain polling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated

from anyio import create_task_group, to_thread
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api import views
from service.api.context import Ctx
from service.api.edge import HEAD
from service.api.hub import Dropped
from service.api.jsonio import answer
from service.api.openapi import ALWAYS, responses
from service.api.parameters import JobId, LastEventId
from service.api.schemas.trials import EventQuery, Events

STREAM = "text/event-stream"
SLOW = 15.0  # seconds a client may take to accept what is sent before it is dropped
_BEGIN = b"retry: 2000\n\n"  # after how many milliseconds a browser connects again
_ALIVE = b": still here\n\n"

router = APIRouter(tags=["events"])


@router.get(
    "/jobs/{id}/events", response_model=Events, summary="A job's events",
    responses={
        200: {
            "description": "With `Accept: text/event-stream`: server-sent events, each with `id` (its number), `event` "
            "(its kind) and `data` (JSON); after the last event of an ended job comes `end`, and the stream closes. "
            "With `Accept: application/json`: those there are, at once.",
            "content": {
                STREAM: {"schema": {
                    "type": "string", "description": "Server-sent events.",
                    "examples": ['id: 7\nevent: state\ndata: {"state":"RUNNING"}\n\n'],
                }}
            },
        },
        **responses(*ALWAYS, "unknown-job", "server-busy"),
    },
)  # fmt: skip
async def get_events(
    request: Request, context: Ctx, id: JobId, query: Annotated[EventQuery, Query()], last: LastEventId = None
) -> Response:
    """What happens in the job from the beginning, or after a number: `?after=`, or `Last-Event-ID` as browsers send it
    when they connect again. Without an `Accept` header that decides, `?after=` means polling."""
    job = await to_thread.run_sync(partial(context.jobs.get, id, light=True))
    after = last if last is not None else query.after or 0
    if not _wants_stream(request, query):
        events = await to_thread.run_sync(context.store.events.after, id, after, query.limit)
        newest = events[-1].seq if events else after
        return answer({"items": [views.event(each) for each in events], "next": newest})
    if request.scope.get(HEAD):
        return Response(media_type=STREAM)
    return EventStream(context.hub.frames(id, after, {"state": job.state, "reason": job.reason}))


def _wants_stream(request: Request, query: EventQuery) -> bool:
    accept = request.headers.get("accept", "*/*")
    if STREAM in accept:
        return True
    return "application/json" not in accept and query.after is None


class EventStream(Response):
    """Sends what it is given as it comes; None as a comment that keeps the connection."""

    media_type = STREAM

    def __init__(self, frames: AsyncIterator[bytes | None]) -> None:
        # X-Accel-Buffering: nginx would hold events back.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with create_task_group() as tasks:

            async def leave_with_the_client() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(leave_with_the_client)
            with suppress(TimeoutError):  # leaves the body without an end, so that the connection is cut
                await self._send(send)
            tasks.cancel_scope.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _part(send, _BEGIN)
        try:
            async with aclosing(self._frames) as frames:  # type: ignore[type-var]
                async for chunk in frames:
                    await _part(send, _ALIVE if chunk is None else chunk)
        except Dropped:
            pass  # the client connects again and goes on with Last-Event-ID
        await _part(send, b"", more=False)


async def _part(send: Send, body: bytes, more: bool = True) -> None:
    async with asyncio.timeout(SLOW):
        await send({"type": "http.response.body", "body": body, "more_body": more})
