"""Errors as RFC 9457 problem documents: one table from our stable codes to HTTP, and the handlers that use it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, cast
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.jsonio import dumps
from service.api.routes import Routes
from tuner.errors import CandidateError, DeviceError, FusetuneError, UserError

MEDIA_TYPE = "application/problem+json"
_SHOWN = 20  # validation errors in one document
_log = logging.getLogger(__name__)

Fault = Literal["user", "candidate", "service"]


@dataclass(frozen=True)
class Kind:
    """What one code means in HTTP."""

    status: int
    title: str
    fault: Fault = "user"
    hint: str = ""  # used where the error itself has none
    stage: str | None = None  # of a job, where the code belongs to one


def _model(title: str, hint: str = "") -> Kind:
    return Kind(422, title, hint=hint, stage="import")


_RETRY = "Try again in a moment."
_LOOK = "The server's log says more under this problem's instance."
_DATABASE = Kind(503, "The database is not available", "service", "Try again later, or ask whoever runs this server.")

KINDS: Mapping[str, Kind] = {
    # the request
    "bad-request": Kind(400, "The request cannot be understood"),
    "bad-json": Kind(400, "The body is not JSON", hint="Send one JSON object, in UTF-8."),
    "bad-cursor": Kind(400, "The cursor is not one of ours", hint="Use 'next' of the page before, unchanged."),
    "bad-order": Kind(422, "There is no such order"),
    "bad-range": Kind(416, "No such range", hint="Leave the Range header out to get the whole file."),
    "invalid-request": Kind(422, "Some values are not allowed", hint="See 'errors' for what is wrong and where."),
    "not-found": Kind(404, "There is nothing at this address", hint="/api/v1/openapi.json lists what there is."),
    "method-not-allowed": Kind(405, "This address does not know this method", hint="See the Allow header."),
    "wrong-host": Kind(421, "This server does not answer to that name"),
    "not-acceptable": Kind(406, "None of the accepted types is offered"),
    "request-timeout": Kind(408, "The request came too slowly"),
    "too-large": Kind(413, "The body is too large"),
    "unsupported-media-type": Kind(415, "The body's type is not supported", hint="Send application/json."),
    # who asks
    "unauthenticated": Kind(401, "Sign in first", hint="Send 'Authorization: Bearer TOKEN', or sign in."),
    "bad-token": Kind(401, "The token is not valid", hint="Make one with `fusetune token create`."),
    "bad-login-code": Kind(401, "The login code is not valid", hint="`fusetune token login` prints a new one."),
    "forbidden": Kind(403, "This token may not do that", hint="Use a token with the role 'full'."),
    "csrf": Kind(403, "The request does not come from our own page", hint="Reload the page and try again."),
    "read-only": Kind(403, "This token may read only", hint="Use a token with the role 'full'."),
    "too-many-requests": Kind(429, "Too many requests", hint="Wait for as long as Retry-After says."),
    # things
    "unknown-job": Kind(404, "There is no such job"),
    "unknown-model": Kind(404, "There is no such model", hint="Upload it with POST /api/v1/models."),
    "unknown-device": Kind(404, "There is no such device", hint="GET /api/v1/devices lists what there is."),
    "unknown-trial": Kind(404, "There is no such trial"),
    "unknown-blob": Kind(404, "The file is no longer stored"),
    "unknown-format": Kind(404, "There is no such format"),
    "unknown-token": Kind(404, "There is no such token"),
    "no-file": Kind(404, "The job has no such file"),
    "not-finished": Kind(409, "The job has not come so far", hint="Wait until its state is SUCCEEDED."),
    "wrong-state": Kind(409, "The job's state does not allow this"),
    "model-in-use": Kind(409, "An unfinished job needs the model", hint="Cancel the job first, or wait for its end."),
    "model-deleted": Kind(409, "The model's file was deleted", hint="Upload it again."),
    "idempotency-conflict": Kind(409, "The Idempotency-Key was used for another request", hint="Use a new key."),
    # jobs as asked for
    "bad-job": Kind(422, "The job is not possible"),
    "unknown-strategy": Kind(422, "There is no such strategy"),
    "bad-precision": Kind(422, "The precision is not supported"),
    "bad-cores": Kind(422, "The device has not as many cores"),
    "bad-memory-limit": Kind(422, "The device knows no limit on a model's memory"),
    "bad-plan": Kind(422, "The plan does not fit the model", stage="plan"),
    "unknown-pass": Kind(422, "There is no such cleaning pass", stage="import"),
    "missing-shape": _model("The model leaves the shape of an input open", "Give it under 'shapes'."),
    "dynamic-shape": _model("A shape depends on the input"),
    "unknown-input": _model("The model has no such input"),
    "shape-contradiction": _model("The shapes contradict each other"),
    # model files
    "invalid-model": _model("The model is not valid"),
    "not-onnx": _model("The file is no ONNX model", "Send the bytes of the .onnx file as the body."),
    "empty-model": _model("The model computes nothing"),
    "truncated-model": _model("The file ends too early", "Send it again, whole."),
    "model-unreadable": _model("The model cannot be read"),
    "model-memory": _model("Importing the model needs too much memory"),
    "model-too-large": _model("The model is too large"),
    "tensor-too-large": _model("A tensor of the model is too large"),
    "inspect-failed": _model("The model breaks the importer"),
    "import-timeout": _model("Importing the model takes too long"),
    "import-crashed": _model("The model crashes the importer"),
    "control-flow": _model("Control flow is not supported"),
    "unsupported-operator": _model("An operator is not supported"),
    "unsupported-attribute": _model("An operator's attribute is not supported"),
    "unsupported-type": _model("A data type is not supported"),
    "unknown-operator": _model("The model uses an operator that ONNX does not know"),
    "external-data": _model("The weights are not in the file", "Save the model as one file."),
    "external-data-missing": _model("The weights are not in the file", "Save the model as one file."),
    "external-data-outside": _model("The weights are not in the file", "Save the model as one file."),
    "external-data-short": _model("The weights are not in the file", "Save the model as one file."),
    # the service
    "storage-full": Kind(507, "The storage is full", "service", "Delete models or jobs that are not needed."),
    "disk-full": Kind(507, "The disk is full", "service", "Make room on the server's disk."),
    "storage": Kind(503, "The storage does not work", "service", "Ask whoever runs this server."),
    "database-busy": Kind(503, "The database is busy", "service", _RETRY),
    "database-unreachable": _DATABASE,
    "bad-database": _DATABASE,
    "no-driver": _DATABASE,
    "device": Kind(503, "The device is not available", "service", _RETRY),
    "no-device": Kind(503, "No server drives this device now", "service", "Start one, or choose another device."),
    "too-busy": Kind(503, "Too many models are being read", "service", "Try again in a minute."),
    "log-busy": Kind(503, "Other logs are being written", "service", "Try again later, or take JSON lines."),
    "log-slow": Kind(503, "Writing the log took too long", "service", "Take the log as JSON lines."),
    "log-failed": Kind(503, "The log cannot be written", "service", "Take the log as JSON lines."),
    "client-left": Kind(400, "The client left"),
    "server-busy": Kind(503, "The server has too much to do", "service", _RETRY),
    "server-closing": Kind(503, "The server is closing", "service", _RETRY),
    "not-ready": Kind(503, "The server is not ready", "service", "See 'checks'."),
    "candidate-failed": Kind(422, "The candidate failed", "candidate"),
    "internal": Kind(500, "Something went wrong here", "service", _LOOK),
}  # fmt: skip

_BY_STATUS = {
    400: "bad-request", 401: "unauthenticated", 403: "forbidden", 404: "not-found", 405: "method-not-allowed",
    406: "not-acceptable", 408: "request-timeout", 413: "too-large", 415: "unsupported-media-type", 416: "bad-range",
    422: "invalid-request", 429: "too-many-requests", 503: "server-busy",
}  # fmt: skip


class Refusal(UserError):
    """A user error that carries response headers, such as Retry-After."""

    def __init__(
        self, message: str, *, code: str, hint: str = "", headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, code=code, hint=hint)
        self.headers = dict(headers or {})
        self.errors = errors


def kind_of(error: FusetuneError) -> Kind:
    """What an error of ours means in HTTP; codes that the table lacks go by their class."""
    known = KINDS.get(error.code)
    if known is not None:
        return known
    if isinstance(error, UserError):
        return Kind(422, "The request cannot be served as given")
    if isinstance(error, DeviceError):
        return KINDS["device"]
    return KINDS["candidate-failed" if isinstance(error, CandidateError) else "internal"]


def document(
    code: str, kind: Kind, detail: str, *, request: str, root_path: str = "", hint: str = "", **more: Any
) -> dict[str, Any]:
    """The problem document. ``request`` is the request's id, which the log repeats."""
    return {
        "type": f"{root_path}/problems/{quote(code)}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
        "fault": kind.fault,
        "stage": kind.stage,
        "hint": hint or kind.hint or None,
        "instance": f"urn:uuid:{request}",
    } | more


def respond(
    request: Request, code: str, detail: str, *, kind: Kind | None = None, hint: str = "",
    headers: Mapping[str, str] | None = None, **more: Any,
) -> Response:  # fmt: skip
    """A problem response to this request. ``more`` are extension members."""
    kind = kind or KINDS[code]
    body = document(
        code, kind, detail, request=request_id(request), root_path=request.scope.get("root_path", ""), hint=hint, **more
    )
    extra = dict(headers or {})
    if kind.status == 401:
        extra.setdefault("WWW-Authenticate", 'Bearer realm="fusetune"')
    if kind.status in {429, 503}:
        extra.setdefault("Retry-After", "5")
    return Response(dumps(body), kind.status, extra, media_type=MEDIA_TYPE)


def request_id(request: Request) -> str:
    """The id that stands in the header X-Request-Id of the answer."""
    return str(request.scope.get("state", {}).get("request_id", "00000000-0000-0000-0000-000000000000"))


def from_error(request: Request, error: FusetuneError) -> Response:
    """The response to an error that was raised on purpose; defects and service failures are logged."""
    kind = kind_of(error)
    if kind.status >= 500:
        # The error says what a log may say; its cause has the driver's own words.
        _log.error("%s: %s", error.code, error, exc_info=error if kind.status == 500 else None)
    detail = error.message if kind.status != 500 else "The request could not be completed because of a defect."
    errors = getattr(error, "errors", None)
    more = {"errors": list(errors)} if errors else {}
    return respond(
        request, error.code, detail, kind=kind, hint=error.hint, headers=getattr(error, "headers", None), **more
    )


def crash(request: Request, error: BaseException) -> Response:
    """The response to a defect: nothing of it is told but the id under which the log has it all."""
    _log.error("unexpected %s in request %s", type(error).__name__, request_id(request), exc_info=error)
    return respond(request, "internal", "The request could not be completed because of a defect.")


def install(app: FastAPI, routes: Routes) -> None:
    """Make every error of the app a problem document. Anything unexpected is left to service.api.edge."""

    async def ours(request: Request, error: Exception) -> Response:
        return from_error(request, cast(FusetuneError, error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, FusetuneError):  # FastAPI wraps what goes wrong while it reads a body
            return from_error(request, error.__cause__)
        code = _BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "bad-request")
        kind = KINDS[code] if KINDS[code].status == error.status_code else Kind(error.status_code, _phrase(error))
        detail = str(error.detail) if error.detail and error.detail != _phrase(error) else f"{kind.title}."
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the router names the methods of one route only
            headers["Allow"] = routes.allowed(routes.path(request.scope))
        return respond(request, code, detail, kind=kind, headers=headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _invalid(request, error.errors())

    app.add_exception_handler(FusetuneError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _invalid(request: Request, errors: Sequence[Any]) -> Response:
    if any(each["type"] == "json_invalid" for each in errors):
        place = errors[0]["loc"][-1]
        return respond(request, "bad-json", f"At character {place}: {errors[0]['ctx']['error']}.")
    found = [{"where": _where(each["loc"]), "message": str(each["msg"])[:300]} for each in errors[:_SHOWN]]
    detail = f"{found[0]['where']}: {found[0]['message']}." if found else "Some values are not allowed."
    # An id that cannot be one names nothing: that is 'not found' rather than 'not valid'.
    code = "not-found" if errors and all(each["loc"][0] == "path" for each in errors) else "invalid-request"
    return respond(request, code, detail, errors=found)


def _where(location: Sequence[Any]) -> str:
    return ".".join(str(part)[:100] for part in location)


def _phrase(error: HTTPException) -> str:
    try:
        return HTTPStatus(error.status_code).phrase
    except ValueError:
        return "Error"
