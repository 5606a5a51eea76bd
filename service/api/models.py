"""Routes of models. An upload goes from the socket to the blob store in pieces and is read in a child process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Annotated

from anyio import from_thread, to_thread
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api import views
from service.api.context import Ctx
from service.api.jsonio import answer
from service.api.openapi import ALWAYS, responses
from service.api.parameters import ModelId
from service.api.problems import Refusal
from service.api.schemas.common import Cursor
from service.api.schemas.models import Estimate, EstimateQuery, GraphOut, ModelOut, ModelPage, UploadQuery
from tuner.errors import UserError

SILENCE = 60.0  # seconds between two pieces of an upload
_TYPES = {
    "", "application/octet-stream", "application/onnx", "application/x-onnx", "application/x-protobuf",
    "application/x-www-form-urlencoded",  # what `curl --data-binary` says if not told otherwise
}  # fmt: skip
_BODY = {
    "required": True,
    "description": "The bytes of the ONNX file.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}

router = APIRouter(tags=["models"])


@router.post(
    "/models", response_model=ModelOut, status_code=201, summary="Upload a model",
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {"model": ModelOut, "description": "These very bytes were known already"},
        **responses(*ALWAYS, "too-large", "unsupported-media-type", "request-timeout", "not-onnx", "invalid-model",
                    "unsupported-operator", "import-timeout", "too-busy", "storage-full"),
    },
)  # fmt: skip
async def upload(request: Request, context: Ctx, query: Annotated[UploadQuery, Query()]) -> Response:
    """Send the bytes of an ONNX file as the body. They are read and cleaned at once, within limits; a file that cannot
    be tuned is refused with the reason. The same bytes sent twice are one model."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _TYPES:
        raise UserError(
            f"A model is not sent as {media_type}.", code="unsupported-media-type",
            hint="Send the file's bytes as the body: curl --data-binary @model.onnx "
            "-H 'Content-Type: application/octet-stream'",
        )  # fmt: skip
    add = partial(context.models.add, _pieces(request), query.name or "model")
    model, created = await to_thread.run_sync(add, limiter=context.uploads)
    headers = {"Location": context.url(f"/models/{model.sha256}")}
    return answer(views.model(model, context.url), 201 if created else 200, headers)


def _pieces(request: Request) -> Iterator[bytes]:
    """The body in a thread, read from the event loop piece by piece, so that a slow disk slows the sender down."""
    stream = request.stream()

    async def piece() -> bytes | None:
        try:
            async with asyncio.timeout(SILENCE):
                return await anext(stream, None)
        except TimeoutError as error:
            raise Refusal(
                f"The body fell silent for {SILENCE:g} s.", code="request-timeout", headers={"Connection": "close"}
            ) from error

    while (data := from_thread.run(piece)) is not None:
        yield data


@router.get("/models", response_model=ModelPage, summary="List models",
            responses=responses(*ALWAYS, "bad-cursor"))  # fmt: skip
def list_models(context: Ctx, query: Annotated[Cursor, Query()]) -> Response:
    """The newest first."""
    page = context.models.list(limit=query.limit, cursor=query.cursor)
    return answer({"items": [views.model(each, context.url) for each in page.items], "next": page.next})


@router.get("/models/{id}", response_model=ModelOut, summary="One model",
            responses=responses(*ALWAYS, "unknown-model"))  # fmt: skip
def get_model(context: Ctx, id: ModelId) -> Response:
    """What is in the model, found when it was uploaded."""
    return answer(views.model(context.models.get(id), context.url))


@router.get("/models/{id}/graph", response_model=GraphOut, summary="A model's graph",
            responses=responses(*ALWAYS, "unknown-model"))  # fmt: skip
def get_graph(context: Ctx, id: ModelId) -> Response:
    """The model after cleaning: layers with their shapes and attributes, without weights."""
    return answer(context.models.graph(id))


@router.get("/models/{id}/estimate", response_model=Estimate, summary="How long a job would take",
            responses=responses(*ALWAYS, "unknown-model", "unknown-device"))  # fmt: skip
def get_estimate(context: Ctx, id: ModelId, query: Annotated[EstimateQuery, Query()]) -> Response:
    """How many kernels the model needs on a device, how many of them are tuned already, and how long the rest takes."""
    found = context.models.estimate(id, context.devices.find(query.device).device)
    return answer({"questions": found.questions, "known": found.known, "seconds": found.seconds})


@router.delete("/models/{id}", status_code=204, response_class=Response, summary="Delete a model",
               responses=responses(*ALWAYS, "unknown-model", "model-in-use"))  # fmt: skip
def delete_model(context: Ctx, id: ModelId) -> Response:
    """Forget the file and what was found in it. Finished jobs and the records they made stay."""
    context.models.delete(id)
    return Response(status_code=204)
