"""How the middlewares say no: a problem document to programs, a page to people."""

from __future__ import annotations

from html import escape

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api import problems
from service.auth.pages import notice
from tuner.errors import FusetuneError


async def refuse(scope: Scope, receive: Receive, send: Send, error: FusetuneError) -> None:
    """Answer with the error, in the form that this client reads."""
    response = problems.from_error(Request(scope), error)
    if wants_page(scope):
        kind = problems.kind_of(error)
        hint = error.hint or kind.hint
        body = f"<p>{escape(error.message)}</p>" + (f'<p class="quiet">{escape(hint)}</p>' if hint else "")
        page = notice(scope, kind.title, body, status=kind.status)
        kept = {name: value for name, value in response.headers.items() if name in {"retry-after", "www-authenticate"}}
        page.headers.update(kept)
        response = page
    await response(scope, receive, send)


def wants_page(scope: Scope) -> bool:
    """Whether a browser asks for a page, as opposed to a script or program for data."""
    return "/api/" not in scope["path"] and "text/html" in Headers(scope=scope).get("accept", "")
