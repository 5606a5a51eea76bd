"""Routes of what a job leaves: plan, report, artifact, tuning log."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from db.jobs import File, Job
from db.schema import ENDED
from service.api.context import Context, Ctx
from service.api.jsonio import answer
from service.api.openapi import ALWAYS, binary, responses
from service.api.parameters import JobId
from service.api.problems import Refusal
from service.api.schemas.common import Input
from service.exports import logs
from tuner.errors import UserError

router = APIRouter(tags=["downloads"])
_ERRORS = responses(*ALWAYS, "unknown-job", "no-file", "not-finished")
_JSON_OBJECT = {"type": "object", "additionalProperties": True}


def _json(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _JSON_OBJECT}}}


class LogQuery(Input):
    """In which format."""

    format: Literal["metaschedule", "jsonl", "csv", "optuna"] = Field(
        default="jsonl",
        description="metaschedule: zip of a TVM MetaSchedule database; jsonl: one trial a line; csv; optuna: journal "
        "file that optuna-dashboard opens.",
        examples=["metaschedule"],
    )


@router.get("/jobs/{id}/plan", response_class=Response, summary="The plan",
            responses={200: _json("Plan, as POST /jobs takes it."), **_ERRORS})  # fmt: skip
def get_plan(request: Request, context: Ctx, id: JobId) -> Response:
    """Which layers are fused, on how many cores each block runs, and how."""
    job = context.jobs.get(id)
    return _file(request, context, job, "plan.json", inline=True)


@router.get("/jobs/{id}/report", response_class=Response, summary="The report as JSON",
            responses={200: _json("Report."), **_ERRORS})  # fmt: skip
def get_report(request: Request, context: Ctx, id: JobId) -> Response:
    """What was found, against what, and how sure it is."""
    job = context.jobs.get(id)
    if job.report is not None:
        return answer(job.report)
    return _file(request, context, job, "report.json", inline=True)


@router.get("/jobs/{id}/report.html", response_class=Response, summary="The report as one HTML page",
            responses={200: binary("A page that needs nothing else.", "text/html"), **_ERRORS})  # fmt: skip
async def get_report_page(context: Ctx, id: JobId) -> Response:
    """Self-contained: it can be kept, mailed and opened without a network."""
    job = await to_thread.run_sync(context.jobs.get, id)
    if job.report is None:
        raise _missing(job, "report.html")
    from service.api.report_page import report_page  # brings the templates, which few servers need soon

    page = await to_thread.run_sync(report_page, context, job)
    return Response(page, media_type="text/html; charset=utf-8", headers=_attachment(f"fusetune-{id}.html"))


@router.get("/jobs/{id}/artifact", response_class=Response, summary="The tuned library",
            responses={200: binary("Zip of the artifact.", "application/zip"),
                       206: binary("The part that was asked for.", "application/zip"),
                       **responses(*ALWAYS, "unknown-job", "no-file", "not-finished", "bad-range")})  # fmt: skip
def get_artifact(request: Request, context: Ctx, id: JobId) -> Response:
    """Library, parameters, plan, report and how to load it, in one zip. `Range` is understood."""
    job = context.jobs.get(id)
    return _file(request, context, job, "artifact.zip")


@router.get(
    "/jobs/{id}/log", response_class=Response, summary="The tuning log",
    responses={
        200: binary("The log.", *(media_type for media_type, _ in logs.FORMATS.values())),
        **responses(*ALWAYS, "unknown-job", "no-file", "not-finished", "log-busy"),
    },
)  # fmt: skip
async def get_log(request: Request, context: Ctx, id: JobId, query: Annotated[LogQuery, Query()]) -> Response:
    """All trials so far, in a format that other tools read."""
    job = await to_thread.run_sync(context.jobs.get, id)
    media_type, name, stream = await logs.log_stream(
        query.format, job, context.store, context.settings, request.is_disconnected
    )
    return StreamingResponse(stream, media_type=media_type, headers=_attachment(name))


def _file(request: Request, context: Context, job: Job, name: str, *, inline: bool = False) -> Response:
    """One of the job's files, from the blob store, whichever server put it there."""
    file = context.store.jobs.files(job.id).get(name)
    if file is None:
        raise _missing(job, name)
    path = context.blobs.path(file.sha256)
    _check_range(request, file)
    headers = {"ETag": f'"{file.sha256}"', "Cache-Control": "private, no-cache", "X-Content-SHA256": file.sha256}
    if not inline:
        headers |= _attachment(f"fusetune-{job.id}-{name}")
    return FileResponse(path, media_type=file.media_type, headers=headers)


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}  # made of an id: nothing to quote


def _missing(job: Job, name: str) -> UserError:
    if job.state not in ENDED:
        return UserError(f"Job {job.id} is {job.state} and has no {name} yet.", code="not-finished")
    return UserError(f"Job {job.id} ended as {job.state} without {name}.", code="no-file", hint=job.reason or "")


def _check_range(request: Request, file: File) -> None:
    """Refuse ranges that FileResponse would refuse as plain text."""
    header = request.headers.get("range")
    if header is None:
        return
    parts = re.fullmatch(r"\s*bytes\s*=\s*(\d*\s*-\s*\d*(?:\s*,\s*\d*\s*-\s*\d*)*)\s*", header, re.ASCII)
    for part in (parts[1] if parts and len(header) < 1000 else "-").split(","):
        first, last = (text.strip() for text in part.split("-"))
        fits = int(first) < file.size if first else bool(last) and int(last) > 0
        if not fits or (first and last and int(last) < int(first)):
            raise Refusal(
                f"The file has {file.size} bytes; {header[:100]!r} is no range of them.", code="bad-range",
                headers={"Content-Range": f"bytes */{file.size}"},
            )  # fmt: skip
