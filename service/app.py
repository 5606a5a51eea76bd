"""The web application, put together: API, dashboard, authentication, and the layers that every request passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from anyio import to_thread
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from db.blobs import Blobs
from db.store import Store
from service import auth, web
from service.api import health, openapi, problems, v1, views
from service.api.context import Context, Dispatching
from service.api.edge import Edge, Shelter
from service.api.hub import Hub
from service.api.metrics import Metrics
from service.api.routes import Routes
from service.devices import DeviceBoard
from service.jobs import Jobs
from service.models import ModelLibrary
from service.settings import Settings

THREADS = 12  # requests that wait for the database at once; see db.engine.CONNECTIONS

_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(
    settings: Settings,
    store: Store,
    blobs: Blobs,
    *,
    jobs: Jobs,
    models: ModelLibrary,
    dispatcher: Dispatching | None = None,
) -> FastAPI:
    """The application on these stores. Whoever serves it calls ``app.state.context.hub.close()`` before it waits for
    open connections to end; what it was given stays open."""
    metrics = Metrics()
    context = Context(
        settings, store, blobs, jobs, models, DeviceBoard(store),
        Hub(store.events, views.wire_event, metrics), metrics, dispatcher,
    )  # fmt: skip
    metrics.observe(partial(health.sample, context))
    app = FastAPI(
        title="fusetune", version=_version(), openapi_url=openapi.PATH, docs_url=None,
        redoc_url=None, redirect_slashes=False, lifespan=_lifespan, telemetry=_NO_TELEMETRY,
    )  # fmt: skip
    app.state.context = context
    routes = Routes(app, settings.root_path)
    problems.install(app, routes)
    app.include_router(health.router)
    app.include_router(v1.router())
    openapi.describe(app, settings.root_path)
    renderer = web.Renderer(settings)
    app.include_router(web.router(settings, store, blobs, jobs, models, renderer))
    # The first layer added is the closest to the routes, the last one is the first to see a request.
    app.add_middleware(Shelter)
    app.add_middleware(web.ErrorPages, renderer=renderer)
    auth.install(app, settings, store)
    app.add_middleware(Edge, metrics=metrics, routes=routes, upload_limit=settings.max_upload)
    auth.shield(app, settings)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    app.state.context.hub.close()


def _version() -> str:
    try:
        return version("fusetune")
    except PackageNotFoundError:  # run from a checkout
        return "0"
