"""Routes of a job's trials."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from db.trials import StoredTrial
from service.api import views
from service.api.context import Ctx
from service.api.jsonio import answer
from service.api.openapi import ALWAYS, binary, responses
from service.api.parameters import JobId, TrialId
from service.api.schemas.trials import TrialFull, TrialPage, TrialQuery
from tuner.errors import UserError

router = APIRouter(tags=["trials"])


@router.get("/jobs/{id}/trials", response_model=TrialPage, summary="List a job's trials",
            responses=responses(*ALWAYS, "unknown-job", "bad-cursor"))  # fmt: skip
def list_trials(context: Ctx, id: JobId, query: Annotated[TrialQuery, Query()]) -> Response:
    """In the order they were made, if not asked otherwise. By `seconds`, failed ones come last."""
    page = context.store.trials.light_page(
        id, cursor=query.cursor, order="seconds" if query.order.endswith("seconds") else "id",
        desc=query.order.startswith("-"), limit=query.limit, state=query.state, kind=query.kind,
    )  # fmt: skip
    if not page.items:
        context.jobs.get(id, light=True)  # or there is no such job
    return answer({"items": [views.trial(each) for each in page.items], "next": page.next})


@router.get("/jobs/{id}/trials/{trial}", response_model=TrialFull, summary="One trial",
            responses=responses(*ALWAYS, "unknown-job", "unknown-trial"))  # fmt: skip
def get_trial(context: Ctx, id: JobId, trial: TrialId) -> Response:
    """Everything known of one trial: all samples, the computation, what a failed one wrote."""
    stored = _of(context, id, trial)
    light = context.store.trials.page(id, trial - 1, 1, light=True)  # it has the words
    return answer(views.full_trial(stored, light[0].summary if light else ""))


@router.get(
    "/jobs/{id}/trials/{trial}/stderr", response_class=Response, summary="What a failed trial wrote",
    responses={
        200: binary("The last 8 kB of what its process wrote to stderr; empty for a trial that did not fail.",
                    "text/plain"),
        **responses(*ALWAYS, "unknown-job", "unknown-trial"),
    },
)  # fmt: skip
def get_stderr(context: Ctx, id: JobId, trial: TrialId) -> Response:
    """As plain text."""
    failure = _of(context, id, trial).trial.failure
    text = "" if failure is None else failure.stderr
    return Response(text.encode("utf-8", "replace"), media_type="text/plain; charset=utf-8")


def _of(context: Ctx, job: str, trial: int) -> StoredTrial:
    stored = context.store.trials.get(trial)
    if stored is None or stored.job != job:
        context.jobs.get(job, light=True)  # or there is no such job
        raise UserError(f"Job {job} has no trial {trial}.", code="unknown-trial")
    return stored
