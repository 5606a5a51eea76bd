"""The page of one job: what it does now, what it found, why, and how to take it home."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse

from db.jobs import Job
from db.paging import encode
from db.queue import Attempt
from service.web import units
from service.web.render import Web
from service.web.views import doing, model_name, settings_of
from tuner.types import JobState

ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ACTIONS: dict[JobState, tuple[tuple[str, str, str], ...]] = {  # what can be asked: (action, label, icon)
    JobState.QUEUED: (("pause", "Pause", "PAUSED"), ("cancel", "Cancel", "CANCELLED")),
    JobState.RUNNING: (("pause", "Pause", "PAUSED"), ("cancel", "Cancel", "CANCELLED")),
    JobState.PAUSED: (("resume", "Resume", "RUNNING"), ("cancel", "Cancel", "CANCELLED")),
    JobState.CANCELLING: (),
    JobState.SUCCEEDED: (),
    JobState.FAILED: (("retry", "Retry", "RUNNING"),),
    JobState.CANCELLED: (("retry", "Go on", "RUNNING"),),
}
LOGS = (  # formats of the tuning log: (format, name, what it is for)
    ("metaschedule", "MetaSchedule database", "zip, loads in stock TVM"),
    ("jsonl", "JSON lines", "one trial a line"),
    ("csv", "CSV", "for spreadsheets and pandas"),
    ("optuna", "Optuna journal", "opens in optuna-dashboard"),
)


@dataclass(frozen=True)
class Download:
    """A file to take home."""

    name: str
    note: str
    href: str


def router(web: Web) -> APIRouter:
    """Routes of /jobs/{id}, its parts, and /compare."""
    from service.web import compare_page
    from service.web.job_view import JobViews

    routes = APIRouter(include_in_schema=False)
    views = JobViews(web)

    @routes.get("/jobs/{id}")
    def job_page(request: Request, id: str) -> HTMLResponse:
        seen = views.last_event(id)
        job = web.jobs.get(id)
        parts = head(web, job) | sections(web, views, job, request)
        return web.page(request, "job.html", **parts, seen=seen, still=views.still(job))

    @routes.get("/jobs/{id}/sections")
    def job_sections(request: Request, id: str) -> HTMLResponse:
        """What stands below the progress of a job: fetched when the job ends."""
        job = web.jobs.get(id)
        return web.page(request, "job_sections.html", **head(web, job), **sections(web, views, job, request))

    @routes.get("/jobs/{id}/head")
    def job_head(request: Request, id: str) -> HTMLResponse:
        """State, buttons and the one sentence: fetched when the state changes."""
        return web.page(request, "job_head.html", **head(web, web.jobs.get(id)))

    @routes.get("/jobs/{id}/chart")
    def chart(id: str) -> JSONResponse:
        return JSONResponse(views.chart(web.jobs.get(id)), headers=_FRESH)

    @routes.get("/jobs/{id}/predictions")
    def predictions(id: str) -> JSONResponse:
        return JSONResponse(views.predictions(web.jobs.get(id)), headers=_FRESH)

    @routes.get("/jobs/{id}/boxes")
    def boxes(id: str, plan: str = "tuned") -> JSONResponse:
        """What the side panel says of each box of the drawing."""
        return JSONResponse(views.details(web.jobs.get(id), plan == "tuned"), headers=_FRESH)

    @routes.get("/jobs/{id}/network")
    def network(request: Request, id: str, plan: str = "tuned") -> HTMLResponse:
        picture = views.picture(web.jobs.get(id), plan == "tuned")
        return web.page(request, "job_network.html", picture=picture)

    @routes.get("/jobs/{id}/jump")
    def jump(id: str, trial: Annotated[int, Query(ge=1, le=2**53)], order: Literal["id", "-id"] = "id") -> JSONResponse:
        """Where the API's list of trials goes on from this one."""
        return JSONResponse({"cursor": encode(order, trial - 1 if order == "id" else trial + 1)}, headers=_FRESH)

    routes.include_router(compare_page.router(web, views))
    return routes


_FRESH = {"Cache-Control": "no-store"}


def head(web: Web, job: Job) -> dict[str, Any]:
    """State and headline."""
    return {
        "job": job,
        "name": model_name(job),
        "settings_text": settings_of(job.spec),
        "headline": headline(job),
        "ended": job.state in ENDED,
        "actions": ACTIONS[job.state] if job.wanted != "pause" else (("resume", "Go on", "RUNNING"), *_CANCEL),
        "attempts": _last_words(web, job) if job.state is JobState.FAILED else [],
        "queued_before": _before(web, job) if job.state is JobState.QUEUED else None,
    }


def _last_words(web: Web, job: Job) -> list[Attempt]:
    """Runs of the job that died and left something to read, the newest first."""
    found = [attempt for attempt in web.store.queue.attempts(job.id) if attempt.stderr and attempt.stderr.strip()]
    return found[::-1][:3]


_CANCEL = (("cancel", "Cancel", "CANCELLED"),)


def headline(job: Job) -> str:
    """The one sentence at the top."""
    from service.exports.facts import against
    from service.exports.facts import headline as of_report

    if job.state is JobState.SUCCEEDED and job.report is not None:
        return of_report(job.report)
    name = f"{model_name(job)} on {job.device_name or job.device}"
    best = ""
    if job.best_seconds is not None and job.state is not JobState.RUNNING:  # else it is shown live below
        best = f"best so far {units.latency(job.best_seconds)}"
        if job.over_onnxruntime is not None:
            best += f", {against(job.over_onnxruntime, None, 'ONNX Runtime')}"
    words = {
        JobState.QUEUED: "waiting for its turn",
        JobState.RUNNING: "being tuned",
        JobState.PAUSED: "paused",
        JobState.CANCELLING: "being cancelled",
        JobState.SUCCEEDED: "done",
        JobState.FAILED: "failed",
        JobState.CANCELLED: "cancelled",
    }
    return f"{name}: {words[job.state]}{'; ' + best if best else ''}."


def sections(web: Web, views: Any, job: Job, request: Request) -> dict[str, Any]:
    """All the rest of the page."""
    from service.exports import facts, quality

    report = job.report if job.state in ENDED else None
    searched = views.searched(job) if job.state in ENDED and (job.measured or job.answered_by) else None
    spent, bar = views.spent(job) if report else ([], "")
    address = str(request.base_url).rstrip("/")
    from service.web.repeat import command, curl

    return {
        "report": report,
        "doing": doing(job),
        "left": left(job),
        "comparisons": facts.comparisons(report) if report else [],
        "left_out": facts.left_out(report) if report else [],
        "picture": views.picture(job),
        "rows": views.rows(job) if report else [],
        "trust": facts.trust(report) if report else [],
        "judged": quality.of_report(report) if report else [],
        "spent": spent,
        "bar": bar,
        "searched": searched,
        "downloads": downloads(web, job),
        "logs": [Download(name, note, web.url(f"/api/v1/jobs/{job.id}/log", format=form)) for form, name, note in LOGS],
        "curl": curl(job, address),
        "command": command(job, address),
        "server": address,
    }


def left(job: Job) -> float | None:
    """Seconds that remain, by the budget; None while nothing tells."""
    if job.state is not JobState.RUNNING or not job.total:
        return None
    rest = max(0.0, job.total - job.done)
    if job.unit == "seconds":
        return rest
    return rest * job.elapsed / job.done if job.done else None


def downloads(web: Web, job: Job) -> list[Download]:
    """What a finished job left."""
    files = web.store.jobs.files(job.id)
    base = f"/api/v1/jobs/{job.id}"
    found = []
    if "artifact.zip" in files:
        size = units.size(files["artifact.zip"].size)
        found.append(Download("Artifact", f"library, weights and manifest; {size}", web.url(f"{base}/artifact")))
    if job.report is not None:
        found += [
            Download("Report as one page", "HTML without scripts, to keep or to send", web.url(f"{base}/report.html")),
            Download("Report", "JSON", web.url(f"{base}/report")),
        ]
    if "plan.json" in files:
        found.append(Download("Plan", "JSON; can be edited and given back", web.url(f"{base}/plan")))
    return found


def _before(web: Web, job: Job) -> int:
    """How many jobs of the device are to run before this one."""
    ahead = web.jobs.list(state=[JobState.QUEUED, JobState.RUNNING], device=job.device, order="-priority", limit=100)
    return sum(
        1
        for other in ahead.items
        if other.id != job.id
        and (other.state is JobState.RUNNING or (-other.priority, other.created_at) < (-job.priority, job.created_at))
    )
