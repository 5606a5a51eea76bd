"""The outermost layer of every request: its id, body limit, metrics and log line, and the last word on errors."""

from __future__ import annotations

import logging
import time
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api import problems
from service.api.metrics import Metrics
from service.api.routes import Routes

JSON_LIMIT = 5 << 18  # bytes of a JSON body: a job with a hand-written plan of 1 MiB, and room for the rest
UPLOAD = "/api/v1/models"  # the one address with a limit of its own
HEAD = "fusetune.head"  # set in the scope of HEAD requests, which are served as GET without the body

_access = logging.getLogger(logs.ACCESS)
_QUIET = {"/healthz", "/readyz", "/metrics"}


class Edge:
    """ASGI middleware; to be added last, so that it is the outermost."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: Routes, upload_limit: int) -> None:
        self._app, self._metrics, self._routes, self._upload_limit = app, metrics, routes, upload_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, id = time.perf_counter(), 0, str(uuid4())
        method = scope["method"]
        scope = {**scope, "root_path": self._routes.root_path, "state": {**scope.get("state", {}), "request_id": id}}
        if method == "HEAD":
            scope |= {"method": "GET", HEAD: True}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", id.encode())]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            with logs.bind(request=id):
                await self._serve(scope, receive, answer)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            response = problems.crash(Request(scope), error)
            if status:
                raise  # too late for another answer: the connection is cut
            await response(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            template = self._routes.template(scope)
            self._metrics.request(method, template, status, seconds)
            if template not in _QUIET:
                _access.info(
                    "%s %s %d %.1f ms", method, scope["path"], status, seconds * 1e3,
                    extra={"request": id, "method": method, "path": scope["path"], "status": status,
                           "ms": round(seconds * 1e3, 1), "caller": _caller(scope)},
                )  # fmt: skip

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._routes.path(scope)
        if scope["method"] == "OPTIONS":
            allowed = self._routes.allowed(path)
            if allowed:
                await Response(status_code=204, headers={"Allow": allowed})(scope, receive, send)
                return
        limit = self._upload_limit if path == UPLOAD and scope["method"] == "POST" else JSON_LIMIT
        length = Headers(scope=scope).get("content-length", "0")
        # A length that is no number never gets here: the server refuses it.
        if length.isdigit() and int(length) > limit:
            await problems.respond(Request(scope), "too-large", _too_large(limit))(scope, receive, send)
            return
        await self._app(scope, _limited(receive, limit), send)


def _caller(scope: Scope) -> str:
    """The id of the token or session that asked, as the gate left it; empty for strangers."""
    return str(getattr(scope["state"].get("identity"), "id", ""))


class Shelter:
    """ASGI middleware just outside the routes: makes a defect of theirs a problem document, which ErrorPages draws."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            raise
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await problems.crash(Request(scope), error)(scope, receive, send)


def _limited(receive: Receive, limit: int) -> Receive:
    """The same stream, ended by a refusal once it is longer than ``limit`` bytes, whatever its header said."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return limited


def _too_large(limit: int) -> str:
    return f"The body may have {limit} bytes at most."
