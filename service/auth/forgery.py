"""Cross-site request forgery: a write in a browser's name must come from our own pages."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from service.auth.hosts import host_name
from service.auth.identity import CSRF_FIELD, CSRF_HEADER
from tuner.errors import UserError

_HINT = "Reload the page and try again."
_FORM = "application/x-www-form-urlencoded"
FORM_LIMIT = 1 << 20  # bytes of a form that is read to find its token


def check_origin(scope: Scope, names: Collection[str]) -> None:
    """Raise UserError when the browser says that another site's page sends this.

    Programs that are no browsers send neither header and pass. ``names`` are those that the server was told it has: a
    proxy may have put another one into the Host header.
    """
    headers = Headers(scope=scope)
    site = headers.get("sec-fetch-site")
    if site is not None:
        if site not in {"same-origin", "none"}:  # "none": typed or bookmarked
            raise _forged("another site")
        return
    origin = headers.get("origin")
    if origin is None:
        return
    sender, own = origin.rpartition("://")[2].lower(), headers.get("host", "").strip().lower()
    # Another port of the same name is another site.
    if sender != own and (host_name(sender) not in names or host_name(sender) == host_name(own)):
        raise _forged(origin)


async def check_token(scope: Scope, receive: Receive, expected: str) -> Receive:
    """Raise UserError unless the header X-CSRF-Token or the form field ``csrf`` holds the session's token.

    Returns how to receive from here on: a form that was read is replayed.
    """
    headers = Headers(scope=scope)
    given = headers.get(CSRF_HEADER)
    if given is None and headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM:
        body = await _read(receive)
        given = (parse_qs(body.decode("utf-8", "replace")).get(CSRF_FIELD) or [""])[0]
        receive = _replay(body, receive)
    if given is None or not hmac.compare_digest(given.encode(), expected.encode()):
        raise UserError(
            "The request does not carry the token of this session's pages.",
            code="csrf",
            hint=f"{_HINT} Programs use 'Authorization: Bearer TOKEN' and need none.",
        )
    return receive


async def _read(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > FORM_LIMIT:
            raise UserError("The form is too large.", code="csrf", hint=_HINT)
        if not message.get("more_body"):
            break
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def _forged(sender: str) -> UserError:
    return UserError(f"A browser sends this from {sender}, not from a page of this server.", code="csrf", hint=_HINT)
