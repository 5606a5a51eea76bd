"""Errors as pages: what is a problem document to programs becomes a page when a browser asked for one."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth.answers import wants_page
from service.web.render import Renderer

_PROBLEM = "application/problem+json"
_KEPT = ("retry-after", "www-authenticate", "allow", "x-request-id")


class ErrorPages:
    """Middleware: draws problem documents as pages. It stands outside whatever makes them, inside the gate."""

    def __init__(self, app: ASGIApp, *, renderer: Renderer) -> None:
        self._app, self._renderer = app, renderer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not wants_page(scope):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def drawn(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body", False):
                return
            await self._draw(scope, receive, send, start, body)

        await self._app(scope, receive, drawn)

    async def _draw(self, scope: Scope, receive: Receive, send: Send, start: Message, body: bytes) -> None:
        try:
            said: dict[str, Any] = json.loads(body)
        except ValueError:
            said = {}
        status = int(start["status"])
        title, detail = str(said.get("title") or "Something went wrong"), str(said.get("detail") or "")
        page = self._renderer.problem(
            Request(scope), status, title, "" if detail == f"{title}." else detail, _hint(said),
            str(said.get("code") or ""),
        )  # fmt: skip
        given = Headers(raw=start["headers"])
        page.headers.update({name: given[name] for name in _KEPT if name in given})
        await page(scope, receive, send)


def _hint(said: dict[str, Any]) -> str:
    # Hints that name the API's addresses are for programs.
    hint = str(said.get("hint") or "")
    return "" if "/api/" in hint else hint


def _is_problem(start: Message) -> bool:
    return Headers(raw=start["headers"]).get("content-type", "").startswith(_PROBLEM)
