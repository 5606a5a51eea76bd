"""Safety at the door: who may come in, what they may do, and what browsers are told."""

from __future__ import annotations

from fastapi import FastAPI

from db.store import Store
from service.auth.gate import Gate
from service.auth.headers import SecurityHeaders
from service.auth.hosts import HostCheck, allowed_hosts
from service.auth.identity import DOCUMENTED, Caller, Identity, csrf_token, identity
from service.auth.login import router
from service.auth.proxy import TrustedProxy
from service.auth.rates import Rates
from service.settings import Settings

__all__ = ["DOCUMENTED", "Caller", "Identity", "csrf_token", "identity", "install", "shield"]


def install(app: FastAPI, settings: Settings, store: Store) -> None:
    """Add the sign-in pages, the check of the Host header and the gate that every request passes."""
    app.include_router(router(settings, store.access))
    app.add_middleware(Gate, settings=settings, access=store.access, rates=Rates(settings.rate))
    app.add_middleware(HostCheck, allowed=allowed_hosts(settings.host, settings.allowed_hosts))


def shield(app: FastAPI, settings: Settings) -> None:
    """Add security headers to every response whatsoever. Call it last: what is added later would stand outside."""
    app.add_middleware(SecurityHeaders, root_path=settings.root_path, secure=settings.secure)
    if settings.trust_proxy:
        app.add_middleware(TrustedProxy)
