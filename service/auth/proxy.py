"""Behind a trusted proxy: the client's address, scheme and host as the proxy saw them."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

FORWARDED = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded")


class TrustedProxy:
    """Believes the LAST value of X-Forwarded-For, -Proto and -Host: the one that the nearest proxy wrote.

    Values further left came with the request, so anybody can write them. With several proxies in a row the nearest one
    has to pass on what the outermost saw.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            if address := _address(_last(headers, "x-forwarded-for")):
                scope["client"] = (address, 0)
            if (scheme := _last(headers, "x-forwarded-proto").lower()) in {"http", "https"}:
                scope["scheme"] = scheme
            if host := _last(headers, "x-forwarded-host"):
                headers["host"] = host
        await self._app(scope, receive, send)


def forwarded(scope: Scope) -> bool:
    """Whether a proxy says that the request came from elsewhere."""
    headers = Headers(scope=scope)
    return any(name in headers for name in FORWARDED)


def _last(headers: Headers, name: str) -> str:
    values = headers.getlist(name)
    return values[-1].rpartition(",")[2].strip() if values else ""


def _address(text: str) -> str:
    """The address in an entry of X-Forwarded-For, which may carry a port; "" if there is none."""
    host = text.partition("]")[0].lstrip("[") if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""
