"""Whether the server lives and can work, its metrics, and what its error codes mean. Outside /api/v1."""

from __future__ import annotations

import os
from collections.abc import Callable

from fastapi import APIRouter, Path
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

from service.api import problems
from service.api.context import Context, Ctx
from service.api.jsonio import answer
from service.api.metrics import Sample
from service.api.openapi import ALWAYS, binary, responses
from service.api.problems import KINDS
from service.api.schemas.devices import Health, ProblemKind, Ready
from tuner.errors import FusetuneError, UserError

router = APIRouter(tags=["service"])


@router.get("/healthz", response_model=Health, summary="Is the server there?")
async def healthz() -> Response:
    """Answers as long as the process lives; touches nothing else."""
    return answer({"status": "ok"})


@router.get("/readyz", response_model=Ready, summary="Can the server do its work?", responses=responses("not-ready"))
def readyz(request: Request, context: Ctx) -> Response:
    """Whether the database answers, the blob store can be written, and the loop that starts jobs goes round."""
    checks: dict[str, Callable[[], None]] = {
        "database": lambda: _check_database(context),
        "storage": lambda: _check_storage(context),
        "dispatcher": lambda: _check_dispatcher(context),
    }
    found = {name: _outcome(check) for name, check in checks.items()}
    if all(each["ok"] for each in found.values()):
        return answer({"status": "ok", "checks": found})
    bad = ", ".join(name for name, each in found.items() if not each["ok"])
    return problems.respond(request, "not-ready", f"Not working: {bad}.", checks=found)


@router.get("/metrics", response_class=Response, summary="Metrics",
            responses={200: binary("Prometheus' text format.", "text/plain"), **responses(*ALWAYS)})  # fmt: skip
def metrics(context: Ctx) -> Response:
    """For Prometheus."""
    return Response(context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/problems/{code}", response_model=ProblemKind, summary="What an error code means",
            responses=responses(*ALWAYS, "not-found"))  # fmt: skip
async def get_problem(code: str = Path(max_length=100, description="Code of an error.", examples=["unknown-job"])) -> (
    Response
):  # fmt: skip
    """Where the `type` of a problem document leads."""
    kind = KINDS.get(code)
    if kind is None:
        raise UserError("There is no such error code.", code="not-found")
    fields = {"status": kind.status, "title": kind.title, "fault": kind.fault, "stage": kind.stage}
    return answer({"code": code, **fields, "hint": kind.hint or None})


def sample(context: Context) -> Sample:
    """What the metrics say of the service as a whole."""
    totals = context.devices.overview.totals()
    return Sample(
        jobs={state.value: count for state, count in context.store.jobs.counts().items()},
        queue_seconds=totals.queue_seconds,
        trials=totals.measured,
        failed=totals.failed,
        blob_bytes=context.blobs.usage(),
        dispatcher=None if context.dispatcher is None else context.dispatcher.alive,
    )


def _outcome(check: Callable[[], None]) -> dict[str, object]:
    try:
        check()
    except FusetuneError as error:
        return {"ok": False, "detail": problems.kind_of(error).title}  # the log has the rest, which names paths
    return {"ok": True, "detail": None}


def _check_database(context: Context) -> None:
    with context.store.database.read() as connection:
        connection.execute(text("SELECT 1"))


def _check_storage(context: Context) -> None:
    # Not a file written each time: probes come every few seconds.
    if not os.access(context.blobs.folder, os.W_OK | os.X_OK):
        raise UserError("The blob folder cannot be written.", code="storage")
    if context.blobs.room() == 0:
        raise UserError("The quota is used up.", code="storage-full")


def _check_dispatcher(context: Context) -> None:
    if context.dispatcher is not None and not context.dispatcher.alive:
        raise UserError("The dispatcher does not run.", code="server-busy")
