"""The dashboard: pages drawn on the server by the same use cases as the API, with small scripts for what is live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from service.settings import Settings
from service.web.errors import ErrorPages
from service.web.render import Renderer, Web

if TYPE_CHECKING:
    from db.blobs import Blobs
    from db.store import Store
    from service.jobs import Jobs
    from service.models import ModelLibrary

__all__ = ["ErrorPages", "Renderer", "Web", "router"]


def router(
    settings: Settings, store: Store, blobs: Blobs, jobs: Jobs, models: ModelLibrary, renderer: Renderer | None = None
) -> APIRouter:
    """All pages and static files. The app adds ``ErrorPages`` with the same renderer, so that errors are pages too."""
    from service.devices import DeviceBoard
    from service.web import device_pages, job_page, model_pages, pages, record_pages, token_pages

    web = Web(settings, store, blobs, jobs, models, DeviceBoard(store), renderer or Renderer(settings))
    routes = APIRouter(include_in_schema=False)

    @routes.get("/static/{version}/{name:path}")
    def static(request: Request, version: str, name: str) -> Response:
        return web.renderer.assets.response(request, version, name)

    @routes.get("/favicon.ico")
    def favicon(request: Request) -> Response:
        assets = web.renderer.assets
        return assets.response(request, assets.version, "favicon.svg")

    # The order matters: /jobs/new is no job.
    for part in (pages, model_pages, device_pages, record_pages, token_pages, job_page):
        routes.include_router(part.router(web))
    return routes
