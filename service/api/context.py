"""What the routes work with: one value per app, and the annotated names by which signatures ask for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Protocol

from anyio import CapacityLimiter
from fastapi import Depends
from starlette.requests import Request

from service.settings import Settings

if TYPE_CHECKING:
    from db.blobs import Blobs
    from db.store import Store
    from service.api.hub import Hub
    from service.api.metrics import Metrics
    from service.devices import DeviceBoard
    from service.jobs import Jobs
    from service.models import ModelLibrary

UPLOADS = 8  # at once; further ones wait with their bodies unread


class Dispatching(Protocol):
    """What the API wants to know of the dispatcher."""

    @property
    def alive(self) -> bool:
        """Whether its loop goes round."""


@dataclass(frozen=True)
class Context:
    """Everything behind the API."""

    settings: Settings
    store: Store
    blobs: Blobs
    jobs: Jobs
    models: ModelLibrary
    devices: DeviceBoard
    hub: Hub
    metrics: Metrics
    dispatcher: Dispatching | None
    uploads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(UPLOADS))  # threads of their own

    def url(self, path: str) -> str:
        """An address of ours as clients see it, behind the prefix of a proxy."""
        return f"{self.settings.root_path}/api/v1{path}"


async def _context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


# An async dependency costs no thread.
Ctx = Annotated[Context, Depends(_context)]
