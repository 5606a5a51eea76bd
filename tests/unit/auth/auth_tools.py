"""A small app to stand behind the gate, and how to get in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.testclient import TestClient

from db.store import Store
from service import auth
from service.api import problems
from service.api.routes import Routes

Make = Callable[..., TestClient]
BROWSER = {"accept": "text/html,application/xhtml+xml"}


def sign_in(client: TestClient, store: Store, **headers: str) -> None:
    answer = client.post("/login", data={"code": store.access.codes.issue(60)}, headers=headers)
    assert answer.status_code == 303, answer.text


def bearer(store: Store, role: str = "full") -> dict[str, str]:
    return {"authorization": f"Bearer {store.access.tokens.create('test', role)[1]}"}


def small_app(root_path: str) -> FastAPI:
    app = FastAPI(openapi_url=None, root_path=root_path)
    problems.install(app, Routes(app))

    @app.get("/")
    def home(request: Request) -> HTMLResponse:
        return HTMLResponse(f"home {auth.csrf_token(request)}")

    @app.get("/api/v1/who")
    def who(caller: auth.Caller) -> dict[str, object]:
        return {"kind": caller.kind, "role": caller.role, "csrf": caller.csrf}

    @app.post("/api/v1/jobs")
    async def submit(request: Request) -> dict[str, str]:
        return {"body": (await request.body()).decode()}

    @app.post("/form")
    async def form(request: Request) -> dict[str, str]:
        return {"body": (await request.body()).decode()}

    @app.get("/api/v1/jobs/1/report.html")
    def report() -> HTMLResponse:
        return HTMLResponse("<script>alert(1)</script>")

    @app.get("/api/v1/events")
    def events() -> StreamingResponse:
        async def endless() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"

        return StreamingResponse(endless(), media_type="text/event-stream")

    for path in ("/healthz", "/readyz", "/metrics", "/static/app.css"):
        app.get(path)(lambda: {"ok": True})
    return app
