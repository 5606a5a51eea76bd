"""The OpenAPI document: problem responses by code, security schemes, and an introduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.api.problems import KINDS, MEDIA_TYPE, document
from service.api.schemas.common import Problem
from service.api.schemas.jobs import JobIn

PATH = "/api/v1/openapi.json"
_REQUEST = "0b1d5c38-6c3c-4a52-9df5-0c6e5a8f3a1e"
_INTRODUCTION = """\
fusetune finds the fastest verified build of an ONNX model for a device. Upload a model, submit a job, watch it, take
the artifact home. Every error is a problem document (RFC 9457) with a stable `code`, whose `fault` says whether the
request, a candidate or the service is to blame. Times are ISO 8601 in UTC. Lists are read page by page: give `next`
back as `cursor`. Every answer carries `X-Request-Id`, which the server's log repeats.

Sign in with `Authorization: Bearer TOKEN` (`fusetune token create` makes one) or, in a browser, with the cookie that
the login page sets; writes with the cookie need the header `X-CSRF-Token` too.
"""
_TAGS = {
    "models": "ONNX models, identified by the SHA-256 of their bytes.",
    "jobs": "Tuning jobs: one model, one device, one budget.",
    "trials": "What was measured, successes and failures.",
    "events": "What happens in a job, live or by polling.",
    "downloads": "What a job leaves: artifact, plan, report, tuning log.",
    "devices": "What measures.",
    "records": "The best verified kernels.",
    "service": "How the service is.",
}
# The metrics of a server on loopback are for all programs of the machine.
_LESS_SECURITY: Mapping[str, list[dict[str, list[str]]]] = {
    "/healthz": [], "/readyz": [], "/metrics": [{"token": []}, {"session": []}, {}],
}  # fmt: skip
ALWAYS = ("unauthenticated", "forbidden", "too-many-requests", "invalid-request", "database-busy")
BODIES: tuple[type[BaseModel], ...] = (JobIn,)  # of routes that read their body by themselves
BODY = ("bad-json", "too-large", "unsupported-media-type")


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route that may end with these codes, for its ``responses``."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        kind = KINDS[code]
        entry = found.setdefault(kind.status, {"description": kind.title, "content": {MEDIA_TYPE: {"examples": {}}}})
        if kind.title not in entry["description"]:
            entry["description"] += f"; or: {kind.title[0].lower()}{kind.title[1:]}"
        content = entry["content"][MEDIA_TYPE]
        content["schema"] = {"$ref": "#/components/schemas/Problem"}
        content["examples"][code] = {
            "summary": kind.title, "value": document(code, kind, f"{kind.title}.", request=_REQUEST)
        }  # fmt: skip
    return dict(sorted(found.items(), key=lambda each: str(each[0])))


def body(model: type[BaseModel]) -> dict[str, Any]:
    """The description of a body that a route reads by itself, for its ``openapi_extra``; see BODIES."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def binary(description: str, *media_types: str) -> dict[str, Any]:
    """A response that is a file."""
    schema = {"type": "string", "format": "binary", "description": description}
    return {"description": description, "content": {media_type: {"schema": schema} for media_type in media_types}}


def describe(app: FastAPI, root_path: str = "") -> None:
    """Give the app its document; it is made at the first request for it and kept."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, root_path)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, root_path: str) -> dict[str, Any]:
    tags = [{"name": name, "description": text} for name, text in _TAGS.items()]
    made = get_openapi(
        title="fusetune", version=app.version, summary="Auto-tuning of deep-learning inference",
        description=_INTRODUCTION, routes=app.routes, tags=tags, servers=[{"url": root_path or "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )  # fmt: skip
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    models: tuple[type[BaseModel], ...] = (Problem, *BODIES)
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {
        "token": {
            "type": "http", "scheme": "bearer", "description": "A token; those with the role 'read' may only read."
        },
        "session": {
            "type": "apiKey", "in": "cookie", "name": "fusetune_session",
            "description": "What the login page sets in a browser.",
        },
    }  # fmt: skip
    made["security"] = [{"token": []}, {"session": []}]
    for path, security in _LESS_SECURITY.items():
        for operation in made["paths"].get(path, {}).values():
            operation["security"] = security
    _describe_ids(made["paths"])
    return made


def _describe_ids(paths: Mapping[str, Any]) -> None:
    """Every answer has the header X-Request-Id: said once here instead of at each route."""
    header = {
        "description": "Id of this request, as in the server's log.",
        "schema": {"type": "string", "format": "uuid", "examples": [_REQUEST]},
    }
    for operations in paths.values():
        for operation in operations.values():
            for response in operation["responses"].values():
                response.setdefault("headers", {})["X-Request-Id"] = header
