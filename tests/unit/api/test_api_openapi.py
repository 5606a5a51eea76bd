"""The OpenAPI document: everything is described, and what is sent fits it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.schemas.devices import DeviceOut, Devices, ProblemKind, Ready, RecordPage
from service.api.schemas.jobs import JobOut, JobPage
from service.api.schemas.models import Estimate, GraphOut, ModelOut, ModelPage
from service.api.schemas.trials import Events, TrialFull, TrialPage
from tests.api_server import Service
from tuner.measure.health import WINDOW, judge

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document(reader: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = reader.get("/api/v1/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield f"{method} {path}", operation


def test_every_field_is_described_and_has_an_example(document: dict[str, Any]) -> None:
    missing = []
    for name, schema in document["components"]["schemas"].items():
        if schema.get("type") == "object" and not schema.get("description"):
            missing.append(name)
        for field, about in schema.get("properties", {}).items():
            if not about.get("description"):
                missing.append(f"{name}.{field}: no description")
            if "examples" not in about:
                missing.append(f"{name}.{field}: no examples")
    assert missing == []


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    missing = []
    for name, operation in operations(document):
        missing += [f"{name}: no {part}" for part in ("summary", "description", "tags") if not operation.get(part)]
        for parameter in operation.get("parameters", []):
            if not parameter.get("description"):
                missing.append(f"{name} {parameter['name']}: no description")
        for status, response in operation["responses"].items():
            if not response.get("description"):
                missing.append(f"{name} {status}: no description")
    assert missing == []
    assert {tag["name"] for tag in document["tags"]} >= {t for _, o in operations(document) for t in o["tags"]}


def test_every_error_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        errors = {status: each for status, each in operation["responses"].items() if int(status) >= 400}
        for status, response in errors.items():
            assert list(response["content"]) == ["application/problem+json"], f"{name} {status}"
            examples = response["content"]["application/problem+json"]["examples"]
            assert all(each["value"]["status"] == int(status) for each in examples.values())
        if "/api/v1/" in name:
            assert {"401", "403", "422", "429", "503"} <= set(errors), name


def test_pages_of_the_dashboard_are_not_part_of_the_api(document: dict[str, Any]) -> None:
    assert all(
        path.startswith("/api/v1/") or path in {"/healthz", "/readyz", "/metrics", "/problems/{code}"}
        for path in document["paths"]
    )


def test_the_document_lists_what_the_design_does(document: dict[str, Any]) -> None:
    names = {name for name, _ in operations(document)}
    for wanted in (
        "post /api/v1/models", "get /api/v1/models", "get /api/v1/models/{id}", "get /api/v1/models/{id}/graph",
        "delete /api/v1/models/{id}", "post /api/v1/jobs", "get /api/v1/jobs", "get /api/v1/jobs/{id}",
        "delete /api/v1/jobs/{id}", "post /api/v1/jobs/{id}:{action}", "get /api/v1/jobs/{id}/trials",
        "get /api/v1/jobs/{id}/events", "get /api/v1/jobs/{id}/plan", "get /api/v1/jobs/{id}/report",
        "get /api/v1/jobs/{id}/report.html", "get /api/v1/jobs/{id}/artifact", "get /api/v1/jobs/{id}/log",
        "get /api/v1/devices", "get /api/v1/devices/{name}", "get /api/v1/records", "get /healthz", "get /readyz",
        "get /metrics",
    ):  # fmt: skip
        assert wanted in names


def test_what_is_sent_fits_the_schemas(service: Service, client: TestClient) -> None:
    """Answers are made without pydantic; here it checks them, down to unknown fields."""
    done, (running, claim) = service.finished(), service.running()
    service.store.turns.take(running.device, claim, 60.0, "a kernel")
    service.store.health.note(running.device, "tvm", [1e-5] * WINDOW, judge, keep=WINDOW)
    jobs, models = f"/api/v1/jobs/{done.id}", f"/api/v1/models/{done.model}"
    expected = {
        "/api/v1/jobs": JobPage, jobs: JobOut, f"/api/v1/jobs/{running.id}": JobOut,
        f"{jobs}/trials": TrialPage, f"{jobs}/trials/1": TrialFull, f"{jobs}/trials/2": TrialFull,
        f"{jobs}/events?after=0": Events, "/api/v1/models": ModelPage, models: ModelOut,
        f"{models}/graph": GraphOut, f"{models}/estimate": Estimate, "/api/v1/devices": Devices,
        "/api/v1/devices/cpu": DeviceOut, "/api/v1/records": RecordPage, "/readyz": Ready,
        "/problems/unknown-job": ProblemKind,
    }  # fmt: skip
    for path, schema in expected.items():
        answer = client.get(path)
        assert answer.status_code == 200, path
        schema.model_validate_json(answer.content, strict=True)
