"""Everything under /api/v1 as one router."""

from __future__ import annotations

from fastapi import APIRouter

from service.api import devices, downloads, events, jobs, models, trials


def router() -> APIRouter:
    """The routers of all resources, those asked most often first: routes are tried in order."""
    whole = APIRouter(prefix="/api/v1")
    for each in (jobs, events, trials, downloads, models, devices):
        whole.include_router(each.router)
    return whole
