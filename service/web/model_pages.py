"""The pages of models: all of them, one with its operators and jobs, and the card that a new job shows of its model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from db.models import Model
from service.web.render import Web
from service.web.views import job_row

PAGE = 50  # models
JOBS = 20  # newest jobs on a model's page


def router(web: Web) -> APIRouter:
    """Routes of /models, /models/{id} and /models/{id}/card."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/models")
    def models(request: Request, cursor: str = "") -> HTMLResponse:
        page = web.models.list(limit=PAGE, cursor=cursor or None)
        return web.page(
            request,
            "models.html",
            models=page.items,
            next_href=web.url("/models", cursor=page.next) if page.next else None,
            first_href=web.url("/models") if cursor else None,
        )

    @routes.get("/models/{id}")
    def model(request: Request, id: str) -> HTMLResponse:
        found = web.models.get(id)
        jobs = web.jobs.list(model=found.sha256, limit=JOBS)
        return web.page(
            request,
            "model.html",
            model=found,
            jobs=[job_row(job) for job in jobs.items],
            more=web.url("/jobs", model=found.sha256[:16]) if jobs.next else None,
            **contents(found),
        )

    @routes.get("/models/{id}/card")
    def card(request: Request, id: str) -> HTMLResponse:
        """What is in the model, as part of a page."""
        found = web.models.get(id)
        return web.page(request, "model_card.html", model=found, **contents(found))

    return routes


def contents(model: Model) -> dict[str, Any]:
    """What an inspection found, as the templates show it; each is empty or None where nothing was found."""
    details = model.details or {}
    unsupported: dict[str, list[str]] = {}
    for each in details.get("unsupported", ()):
        unsupported.setdefault(f"{each['op']}: {each['why']}", []).append(str(each["layer"]))
    ops = sorted(details.get("ops", {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        "ops": ops,
        "most": max((number for _, number in ops), default=0),
        "unsupported": unsupported,
        "blocks": details.get("blocks"),
        "parameters": details.get("parameters"),
        "questions": len(details["questions"]) if "questions" in details else None,
        "open_inputs": [each for each in model.inputs if each.get("open")],
    }
