"""The gate: every request passes here once, and leaves with an Identity or with an answer.

Order: who is it, may it ask so often, may it do this, did it mean to (cross-site forgery).
"""

from __future__ import annotations

import hashlib

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from db.access import Access
from service import logs
from service.api.problems import Refusal, kind_of
from service.auth.answers import refuse, wants_page
from service.auth.forgery import check_origin, check_token
from service.auth.headers import route_path
from service.auth.hosts import host_name
from service.auth.identity import COOKIE, NOBODY, OPEN, Identity
from service.auth.proxy import forwarded
from service.auth.rates import Kind, Rates, client
from service.settings import Settings, is_loopback
from tuner.errors import FusetuneError, UserError

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN = frozenset({"/healthz", "/readyz", "/favicon.ico"})  # and /static/: nothing here depends on who asks
_SIGN_IN = frozenset({"/login", "/logout"})  # pages that want to know who asks, and let nobody in too
_REALM = 'Bearer realm="fusetune"'


class Gate:
    """Authentication, roles, rate limits and protection from cross-site requests."""

    def __init__(self, app: ASGIApp, *, settings: Settings, access: Access, rates: Rates) -> None:
        self._app, self._settings, self._access, self._rates = app, settings, access, rates
        self._names = frozenset(host_name(name) for name in settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope, self._settings.root_path)
        try:
            who = await self._who(scope, path)
            if scope["method"] not in SAFE:
                receive = await self._may_write(scope, receive, who, path)
        except FusetuneError as error:
            if kind_of(error).status == 401 and scope["method"] in SAFE and wants_page(scope):
                await RedirectResponse(f"{self._settings.root_path}/login", status_code=303)(scope, receive, send)
            else:
                await refuse(scope, receive, send, error)
            return
        scope.setdefault("state", {}).update(
            # What templates read, and what routes do.
            identity=who, csrf=who.csrf, role=who.role, session=who.kind == "session",
        )  # fmt: skip
        with logs.bind(caller=who.id or None):
            await self._app(scope, receive, send)

    async def _who(self, scope: Scope, path: str) -> Identity:
        """The caller. Raises UserError for one who may not ask this, or not so often."""
        address = client((scope.get("client") or ("", 0))[0])
        if path in _OPEN or path.startswith("/static/"):
            await self._limit("public", address)
            return NOBODY
        if path == "/login" and scope["method"] == "POST":
            await self._limit("login", address)
        if not self._settings.auth:
            await self._limit("request", address)
            return OPEN
        found = await self._presented(scope)
        if found is not None:
            await self._limit("request", f"{found.kind} {found.id}")
            return found
        if path in _SIGN_IN:
            await self._limit("public", address)
            return NOBODY
        if path == "/metrics" and self._is_neighbour(scope):
            await self._limit("public", address)
            return NOBODY
        wrong = self._shows_something(scope)
        # A browser without a session is only on its way to the sign-in page.
        await self._limit("public" if wants_page(scope) and not wrong else "failure", address)
        if wrong:
            raise Refusal(
                "The token or session is not known here, or no longer valid.",
                code="bad-token",
                headers={"WWW-Authenticate": f'{_REALM}, error="invalid_token"'},
            )
        raise Refusal("This needs a token.", code="unauthenticated", headers={"WWW-Authenticate": _REALM})

    async def _presented(self, scope: Scope) -> Identity | None:
        """Who the request's token or cookie belongs to. A token goes first, and a wrong one is not made up for."""
        connection = HTTPConnection(scope)
        header = connection.headers.get("authorization")
        if header is not None:
            scheme, _, secret = header.partition(" ")
            if scheme.lower() != "bearer" or not (secret := secret.strip()):
                return None
            tokens = self._access.tokens
            token = tokens.recent(secret) or await to_thread.run_sync(tokens.check, secret)
            return None if token is None else Identity("token", token.id, token.role)
        if secret := connection.cookies.get(COOKIE, ""):
            session = await to_thread.run_sync(self._access.sessions.check, secret)
            return None if session is None else Identity("session", _short(session.csrf), session.role, session.csrf)
        return None

    async def _may_write(self, scope: Scope, receive: Receive, who: Identity, path: str) -> Receive:
        """How to read on, as a form's body has been looked at by then. Raises UserError."""
        if who.kind == "token":
            if not who.may_write:
                raise UserError("This token may read only.", code="forbidden")
            return receive
        check_origin(scope, self._names)
        # A sign-in page may be older than the session: it does not know its token.
        return receive if who.kind != "session" or path == "/login" else await check_token(scope, receive, who.csrf)

    async def _limit(self, kind: Kind, who: str) -> None:
        wait = await self._rates.hit(kind, who)
        if wait is not None:
            raise Refusal(
                f"Too many requests; the next is welcome in {wait} s.",
                code="too-many-requests",
                headers={"Retry-After": str(wait)},
            )

    def _is_neighbour(self, scope: Scope) -> bool:
        """A program on this machine that asks a server which only this machine can reach."""
        address = (scope.get("client") or ("", 0))[0]
        return is_loopback(self._settings.host) and is_loopback(address) and not forwarded(scope)

    @staticmethod
    def _shows_something(scope: Scope) -> bool:
        return "authorization" in Headers(scope=scope) or COOKIE in HTTPConnection(scope).cookies


def _short(secret: str) -> str:
    """A name for logs and counters that gives nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]
