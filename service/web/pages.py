"""The pages around jobs: their list, and a new one. What is shown of one job is in job_page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from service.rules import DEFAULT_SECONDS, STRATEGIES
from service.web.joblist import ORDERS, PERIOD_NAMES, JobFilters, summary
from service.web.render import Web
from service.web.views import LIVE, job_row
from tuner.errors import UserError
from tuner.precision import ACCURACY, PRECISIONS

PAGE = 50  # jobs
LIVE_ROWS = 200  # rows that one page keeps up to date
NEWER = 99  # jobs counted as newer at most
STRATEGY_NAMES = {
    "joint": "joint: fusion, cores and kernels together",
    "greedy": "greedy: fuse first, then tune the kernels",
    "none": "none: each layer alone, one core, default knobs",
    "dlfusion": "dlfusion: the paper's heuristic, then the kernels",
    "tpe": "tpe: Optuna over whole plans, to compare",
    "random": "random: plans drawn at random, to compare",
    "exhaustive": "exhaustive: every block of a small model",
}


@dataclass(frozen=True)
class DeviceChoice:
    """A device to choose by the name that jobs use."""

    value: str
    label: str
    cores: int
    offered: bool  # some live server drives it


def router(web: Web) -> APIRouter:
    """Routes of /, /jobs, /jobs/rows and /jobs/new."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def home() -> RedirectResponse:
        return RedirectResponse(web.url("/jobs"), 307)

    @routes.get("/jobs")
    def jobs(
        request: Request,
        state: Annotated[list[str], Query()] = [],  # noqa: B006
        device: str = "",
        model: str = "",
        since: str = "",
        order: str = "",
        cursor: str = "",
    ) -> HTMLResponse:
        filters = JobFilters.read(state, device, model, since, order)
        page = web.jobs.list(**filters.arguments(), limit=PAGE, cursor=cursor or None)
        counts = web.store.jobs.counts()
        whole = not filters.active and not cursor and filters.order == ORDERS[0][0]
        return web.page(
            request,
            "jobs.html",
            filters=filters,
            choices=filters.choices(counts),
            everything=sum(counts.values()),
            summary=summary(counts),
            devices=device_choices(web),
            periods=PERIOD_NAMES,
            orders=ORDERS,
            rows=[job_row(job) for job in page.items],
            newest=max((job.created_at for job in page.items), default=None),
            whole=whole,
            next_href=web.url("/jobs", **filters.query(), cursor=page.next) if page.next else None,
            first_href=web.url("/jobs", **filters.query()) if cursor else None,
        )

    @routes.get("/jobs/rows")
    def rows(request: Request, id: Annotated[list[str], Query()] = [], after: str = "") -> HTMLResponse:  # noqa: B006
        """The lines of these jobs as they are now, and how many jobs came after a moment."""
        wanted = id[:LIVE_ROWS]
        found = {job.id: job for job in web.jobs.list(state=LIVE, limit=LIVE_ROWS).items} if wanted else {}
        # What is live no more has just ended.
        fresh = [found.get(each) or web.store.jobs.get(each) for each in wanted]
        newer = web.jobs.list(created_after=_moment(after), limit=NEWER).items if after else []
        return web.page(
            request, "job_rows.html", rows=[job_row(job) for job in fresh if job is not None], newer=len(newer)
        )

    @routes.get("/jobs/new")
    def new(request: Request, model: str = "", device: str = "") -> HTMLResponse:
        chosen = web.store.models.get(model) if model else None
        return web.page(
            request,
            "new_job.html",
            models=[each for each in web.models.list(limit=100).items if each.file],
            chosen=chosen,
            devices=device_choices(web),
            device=device,
            strategies=STRATEGIES,
            strategy_names=STRATEGY_NAMES,
            precisions=PRECISIONS,
            limits=[(name, f"{limit:g}") for name, limit in ACCURACY.items()],
            minutes=DEFAULT_SECONDS / 60,
        )

    return routes


def device_choices(web: Web) -> list[DeviceChoice]:
    """The devices, one per name, those that a live server drives first."""
    offered = set(web.store.devices.offered())
    found: dict[str, DeviceChoice] = {}
    known = web.store.devices.list()
    for each in sorted(known, key=lambda each: each.device.fingerprint not in offered):
        device = each.device
        cores = f"{device.cores} core" + ("s" if device.cores != 1 else "")
        choice = DeviceChoice(
            device.name, f"{device.name} ({device.model}, {cores})", device.cores, device.fingerprint in offered
        )
        found.setdefault(device.name, choice)
    return list(found.values())


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError("without time zone")
        found = found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UserError("That is no moment in time.", code="invalid-request") from error
    return found
