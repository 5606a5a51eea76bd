"""The Host header: a server on loopback answers only to its own names, so that no web page can rebind its way in."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth.answers import refuse
from service.settings import is_loopback
from tuner.errors import UserError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class HostCheck:
    """Refuses requests that name a host we do not answer to. ``allowed`` empty: any host is fine."""

    def __init__(self, app: ASGIApp, *, allowed: Collection[str]) -> None:
        self._app, self._allowed = app, frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._allowed:
            host = host_name(Headers(scope=scope).get("host", ""))
            if host not in self._allowed:
                error = UserError(
                    f"This server does not answer to the name {host!r}.",
                    code="wrong-host",
                    hint="Start it with --allowed-host NAME if the name is right.",
                )
                await refuse(scope, receive, send, error)
                return
        await self._app(scope, receive, send)


def allowed_hosts(bound_to: str, configured: Collection[str]) -> frozenset[str]:
    """The names to answer to; empty = any, for a server on the network that was told none."""
    names = frozenset(host_name(name) for name in configured)
    if not names and not is_loopback(bound_to):
        return frozenset()
    own = f"[{bound_to}]" if ":" in bound_to else bound_to.lower()
    # Loopback always: health checks run beside the server.
    return names | LOOPBACK | {own}


def host_name(header: str) -> str:
    """The name in a Host header, without its port."""
    text = header.strip().lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].rstrip(".")
