"""Who makes a request: what the gate found out, and how routes and templates ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPBearer

from db.access import Role

COOKIE = "fusetune_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"


@dataclass(frozen=True)
class Identity:
    """The caller of one request."""

    kind: Literal["token", "session", "open", "nobody"]  # open = authentication is off; nobody = on a public page
    id: str  # of the token or session; what logs name and rate limits count
    role: Role
    csrf: str = ""  # what a form or script of this session has to send back; empty where nothing is asked

    @property
    def may_write(self) -> bool:
        return self.role == "full"


NOBODY = Identity("nobody", "", "read")
OPEN = Identity("open", "", "full")


def identity(request: Request) -> Identity:
    """The caller, as the gate left it in the request."""
    found: Identity = getattr(request.state, "identity", NOBODY)
    return found


def csrf_token(request: Request) -> str:
    """For ``<meta name="csrf-token">`` and the hidden field ``csrf``; empty where none is needed."""
    return identity(request).csrf


Caller = Annotated[Identity, Depends(identity)]

# For the OpenAPI document alone: the gate has checked before a route is reached.
bearer = HTTPBearer(auto_error=False, description="A token from `fusetune token create`.")
session = APIKeyCookie(name=COOKIE, auto_error=False, description="What the dashboard's sign-in sets.")
DOCUMENTED = (Depends(bearer), Depends(session))
