"""Routes of jobs. GET /jobs/{id} and POST /jobs are hot: few queries, one thread hop, no pydantic on the way out."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api import openapi, views
from service.api.context import Ctx
from service.api.jsonio import answer
from service.api.openapi import ALWAYS, BODY, responses
from service.api.parameters import IdempotencyKey, JobId
from service.api.schemas.jobs import JobIn, JobOut, JobPage, JobQuery
from tuner.errors import UserError

router = APIRouter(tags=["jobs"])
_SMALL = 1 << 14  # bytes of a body that is read at once
_ACTION = Path(description="What to do with the job.", examples=["cancel"])


async def json_only(request: Request) -> None:
    """Refuse other bodies than JSON with 415, where FastAPI would call them malformed."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UserError(f"A job is JSON, not {media_type or 'of no stated type'}.", code="unsupported-media-type")


async def job_in(request: Request, _: Annotated[None, Depends(json_only)]) -> JobIn:
    """The body. FastAPI would read it in the event loop, where a large plan would hold up everybody."""
    body = await request.body()
    return await to_thread.run_sync(_job_in, body) if len(body) > _SMALL else _job_in(body)


def _job_in(body: bytes) -> JobIn:
    try:
        return JobIn.model_validate(json.loads(body))
    except json.JSONDecodeError as error:
        where = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise RequestValidationError([where]) from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([each | {"loc": ("body", *each["loc"])} for each in found]) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, numbers of thousands of digits, endless nesting
        raise HTTPException(400, "There was an error parsing the body") from error


@router.post(
    "/jobs", response_model=JobOut, status_code=202, summary="Submit a job", openapi_extra=openapi.body(JobIn),
    responses={
        200: {"model": JobOut, "description": "The same request came before with this Idempotency-Key"},
        **responses(*ALWAYS, *BODY, "unknown-model", "unknown-device", "unknown-strategy", "bad-precision",
                    "bad-cores", "unknown-pass", "unknown-input", "missing-shape", "shape-contradiction", "bad-plan",
                    "too-busy", "idempotency-conflict"),
    },
)  # fmt: skip
def submit(context: Ctx, body: Annotated[JobIn, Depends(job_in)], key: IdempotencyKey = None) -> Response:
    """Queue a job. If the answer is known and no fresh search is asked for, the job has SUCCEEDED at once
    (`reused: true`)."""
    job, created = context.jobs.submit(body.spec(), priority=body.priority, notes=body.notes, idempotency=key)
    path = f"/jobs/{job.id}"
    return answer(views.job(job, context.url), 202 if created else 200, {"Location": context.url(path)})


@router.get("/jobs", response_model=JobPage, summary="List jobs", responses=responses(*ALWAYS, "bad-cursor"))
def list_jobs(context: Ctx, query: Annotated[JobQuery, Query()]) -> Response:
    """The newest first, if not asked otherwise. Filters narrow it together."""
    page = context.jobs.list(
        state=query.state or None, device=query.device, model=query.model, created_after=query.created_after,
        created_before=query.created_before, order=query.order, limit=query.limit, cursor=query.cursor,
    )  # fmt: skip
    return answer({"items": [views.job(each, context.url, listed=True) for each in page.items], "next": page.next})


@router.get("/jobs/{id}", response_model=JobOut, summary="One job", responses=responses(*ALWAYS, "unknown-job"))
def get_job(context: Ctx, id: JobId) -> Response:
    """How far the job is."""
    return answer(views.job(context.jobs.get(id), context.url))


@router.delete("/jobs/{id}", status_code=204, response_class=Response, summary="Delete a job",
               responses=responses(*ALWAYS, "unknown-job", "wrong-state"))  # fmt: skip
def delete_job(context: Ctx, id: JobId) -> Response:
    """Forget a job that has ended, with its events and files. What it measured stays known."""
    context.jobs.delete(id)
    return Response(status_code=204)


@router.post("/jobs/{id}:{action}", response_model=JobOut, summary="Cancel, pause, resume or retry a job",
             responses=responses(*ALWAYS, "unknown-job", "wrong-state"))  # fmt: skip
def act(context: Ctx, id: JobId, action: Annotated[Literal["cancel", "pause", "resume", "retry"], _ACTION]) -> Response:
    """Asking twice does no more than asking once. `cancel` keeps the best found so far; `pause` frees the device and
    `resume` goes on where it stopped; `retry` lets an ended job go on, repeating only trials that failed for a passing
    reason (time-out, lost device, memory)."""
    return answer(views.job(context.jobs.act(id, action), context.url))
