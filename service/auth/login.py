"""GET and POST /login, POST /logout: a one-time code becomes a browser's session cookie."""

from __future__ import annotations

from urllib.parse import parse_qs

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from db.access import SESSION_SECONDS, Access
from service.auth.forgery import FORM_LIMIT
from service.auth.identity import COOKIE, identity
from service.auth.pages import sign_in
from service.settings import Settings

_LONGEST = 500  # characters of a code worth looking at


def router(settings: Settings, access: Access) -> APIRouter:
    """The routes; they are pages, so the OpenAPI document leaves them out."""
    routes = APIRouter(include_in_schema=False)
    home, action = f"{settings.root_path}/", f"{settings.root_path}/login"
    path = settings.root_path or "/"

    @routes.get("/login")
    async def show(request: Request, code: str = "") -> Response:
        if identity(request).kind in {"session", "open"}:
            return RedirectResponse(home, 303)
        return sign_in(action, code[:_LONGEST])

    @routes.post("/login")
    async def redeem(request: Request) -> Response:
        code = (parse_qs((await _form(request)).decode("utf-8", "replace")).get("code") or [""])[0].strip()
        code = code.rpartition("code=")[2]  # people paste the whole link
        secret = await to_thread.run_sync(access.codes.redeem, code) if 0 < len(code) <= _LONGEST else None
        if secret is None:
            return sign_in(action, "", wrong=True)
        response = RedirectResponse(home, 303)
        response.set_cookie(
            COOKIE,
            secret,
            max_age=_COOKIE_LIFE,
            path=path,
            secure=settings.secure or request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        return response

    @routes.post("/logout")
    async def leave(request: Request) -> Response:
        if secret := request.cookies.get(COOKIE, ""):
            await to_thread.run_sync(access.sessions.end, secret)
        response = RedirectResponse(action, 303)
        response.delete_cookie(COOKIE, path=path)
        return response

    return routes


# The database decides when a session is over, and extends the ones in use: the cookie only has to outlast that.
_COOKIE_LIFE = 26 * int(SESSION_SECONDS)


async def _form(request: Request) -> bytes:
    """The body, as far as it could be a form of ours."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_LIMIT:
            return b""
    return body
