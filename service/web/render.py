"""Pages out of templates: one Jinja2 environment, and what every template may use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from service.auth.identity import identity
from service.settings import Settings
from service.web.addresses import Addresses
from service.web.assets import Assets
from service.web.filters import FILTERS

if TYPE_CHECKING:
    from db.blobs import Blobs
    from db.store import Store
    from service.devices import DeviceBoard
    from service.jobs import Jobs
    from service.models import ModelLibrary


class Renderer:
    """Draws templates. Needs no store, so that the sign-in page and error pages can be drawn whatever is broken."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.addresses = Addresses(settings.root_path)
        self.assets = Assets(self.addresses)
        self.environment = Environment(
            loader=PackageLoader("service.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters.update(FILTERS)
        self.environment.globals.update(
            url=self.addresses.url,
            static=self.assets.url,
            plotly_url=self.assets.plotly_url,
            settings=settings,
            version=metadata.version("fusetune"),
        )

    def page(self, request: Request, template: str, status: int = 200, /, **values: object) -> HTMLResponse:
        """A whole page. It is never kept by a cache: it shows the state of things, and perhaps a CSRF token."""
        text = self.environment.get_template(template).render(self._about(request) | values)
        return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})

    def problem(
        self, request: Request, status: int, title: str, detail: str = "", hint: str = "", code: str = ""
    ) -> HTMLResponse:
        """The page for what went wrong: what happened, and what to try."""
        values = {"status": status, "title": title, "detail": detail, "hint": hint, "code": code}
        return self.page(request, "error.html", status, **values)

    def _about(self, request: Request) -> dict[str, Any]:
        caller = identity(request)
        return {
            "request": request,
            "csrf": caller.csrf,
            "can_write": caller.may_write,
            "signed_in": caller.kind == "session",
        }


@dataclass(frozen=True)
class Web:
    """What page routes work with: the same use cases as the API, and the renderer."""

    settings: Settings
    store: Store
    blobs: Blobs
    jobs: Jobs
    models: ModelLibrary
    devices: DeviceBoard
    renderer: Renderer

    def page(self, request: Request, template: str, status: int = 200, /, **values: object) -> HTMLResponse:
        return self.renderer.page(request, template, status, **values)

    def url(self, path: str, **query: object) -> str:
        return self.renderer.addresses.url(path, query)
