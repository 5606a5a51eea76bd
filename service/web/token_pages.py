"""The page of API tokens: make one, see when each was last used, revoke. Only for those who may write."""

from __future__ import annotations

from urllib.parse import parse_qs

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from service.auth.identity import identity
from service.web.render import Web
from tuner.errors import UserError

NAME = 100  # characters of a refused name that are shown again


def router(web: Web) -> APIRouter:
    """Routes of /tokens. Forms carry the CSRF token, which the gate checks before they arrive here."""
    routes = APIRouter(include_in_schema=False)
    tokens = web.store.access.tokens

    def draw(request: Request, **values: object) -> HTMLResponse:
        shown = {"secret": None, "problem": None, "name": ""} | values
        return web.page(request, "tokens.html", 400 if shown["problem"] else 200, tokens=tokens.list(), **shown)

    @routes.get("/tokens")
    def show(request: Request) -> HTMLResponse:
        _allowed(request)
        return draw(request)

    @routes.post("/tokens")
    async def create(request: Request) -> Response:
        _allowed(request)
        form = await _form(request)
        return await to_thread.run_sync(lambda: make(request, form))

    def make(request: Request, form: dict[str, str]) -> Response:
        name = form.get("name", "")
        try:
            _, secret = tokens.create(name, "full" if form.get("role") == "full" else "read")
        except UserError as error:
            return draw(request, problem=error.message, name=name[:NAME])
        # Shown in the answer itself: a redirect would have to carry the secret in an address.
        return draw(request, secret=secret, name=name.strip())

    @routes.post("/tokens/{id}/revoke")
    def revoke(request: Request, id: str) -> Response:
        _allowed(request)
        tokens.revoke(id)
        return RedirectResponse(web.url("/tokens"), 303)

    return routes


def _allowed(request: Request) -> None:
    if not identity(request).may_write:
        raise UserError("Only those with a full token or session may see and make tokens.", code="forbidden")


async def _form(request: Request) -> dict[str, str]:
    body = (await request.body()).decode("utf-8", "replace")
    return {name: values[0] for name, values in parse_qs(body).items()}
