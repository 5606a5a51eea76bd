"""Security headers on every response, the Content-Security-Policy above all."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What Plotly.js needs. It writes its rules into an empty <style> through the object model, which the hash of no text
# allows; it sets style attributes on the SVG texts it draws; and the bundle in the wheel brings the style sheet of its
# maps, which are not used here, but would complain in the console. tests/unit/auth/test_headers.py draws with it.
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
_PLOTLY_MAPS = "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='"

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {_EMPTY_STYLE} {_PLOTLY_MAPS}",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
# What the API hands out is data. A report or drawing opened in a tab must not act in the name of who opened it.
DOCUMENT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # "no-referrer" would make browsers send "Origin: null" with our own forms
    "permissions-policy": "accelerometer=(), camera=(), geolocation=(), gyroscope=(), magnetometer=(), "
    "microphone=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_HSTS = "max-age=31536000"


class SecurityHeaders:
    """Adds what a response does not set itself; under HTTPS also Strict-Transport-Security."""

    def __init__(self, app: ASGIApp, *, root_path: str = "", secure: bool = False) -> None:
        self._app, self._root, self._secure = app, root_path, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope, self._root)
        policy = DOCUMENT_POLICY if path.startswith("/api/") else PAGE_POLICY
        cached = path.startswith("/static/")

        async def extended(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", policy)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
                if not cached:
                    # What is shown to one user must not come out of a shared cache for another.
                    headers.setdefault("cache-control", "no-store")
                if self._secure or scope["scheme"] == "https":
                    headers.setdefault("strict-transport-security", _HSTS)
            await send(message)

        await self._app(scope, receive, extended)


def route_path(scope: Scope, root_path: str) -> str:
    """The request's path without the prefix of a proxy, whether the proxy takes it off or not."""
    path = str(scope["path"])
    if root_path and (path == root_path or path.startswith(f"{root_path}/")):
        return path[len(root_path) :] or "/"
    return path
