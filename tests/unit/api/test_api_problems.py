"""Errors: everything that goes wrong is a problem document, and none says more than it should."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.edge import JSON_LIMIT
from service.api.problems import KINDS
from service.api.schemas.common import Problem
from tests.api_server import Service, serving
from tuner.errors import CandidateError, DeviceError, InternalError, UserError

JSON = {"Content-Type": "application/json"}


def problem(answer: Any) -> Problem:
    """The document of an error, checked."""
    assert answer.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate(answer.json())
    assert found.status == answer.status_code
    assert found.instance == f"urn:uuid:{answer.headers['x-request-id']}"
    assert found.type.endswith(f"/problems/{found.code}")
    return found


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/nothing", 404, "not-found"),
        ("GET", "/api/v1/jobs/", 404, "not-found"),
        ("GET", "/api/v1/../../etc/passwd", 404, "not-found"),
        ("PUT", "/api/v1/jobs", 405, "method-not-allowed"),
        ("DELETE", "/healthz", 405, "method-not-allowed"),
        ("POST", "/api/v1/jobs", 415, "unsupported-media-type"),
        ("GET", "/api/v1/devices/gpu", 404, "unknown-device"),
        ("GET", f"/api/v1/models/{'0' * 64}", 404, "unknown-model"),
        ("GET", f"/api/v1/models/{'0' * 64}/graph", 404, "unknown-model"),
        ("DELETE", f"/api/v1/models/{'0' * 64}", 404, "unknown-model"),
        ("GET", "/api/v1/jobs/0a0a/trials", 404, "unknown-job"),
        ("GET", "/api/v1/jobs/0a0a/trials/1", 404, "unknown-job"),
        ("GET", "/api/v1/jobs/0a0a/events", 404, "unknown-job"),
        ("GET", "/api/v1/jobs/0a0a/artifact", 404, "unknown-job"),
        ("GET", "/api/v1/jobs/0a0a/log?format=pickle", 422, "invalid-request"),
        ("GET", "/problems/no-such-code", 404, "not-found"),
    ],
)
def test_every_refusal_is_a_problem(reader: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = reader.request(method, path)
    assert (answer.status_code, problem(answer).code) == (status, code)


def test_method_not_allowed_names_all_methods(reader: TestClient) -> None:
    """Two routes share the address; the header speaks of both."""
    assert reader.put("/api/v1/jobs").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert reader.options("/api/v1/jobs").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert reader.options("/api/v1/nothing").status_code == 404


def test_head_is_get_without_the_body(reader: TestClient) -> None:
    head, get = reader.head("/api/v1/jobs"), reader.get("/api/v1/jobs")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(get.content))
    assert reader.head("/api/v1/nothing").status_code == 404


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a": }', b"\xff", b"[" * 100_000, b'{"seed": ' + b"9" * 10_000 + b"}", b'"\\ud800'],
    ids=["empty", "open", "hole", "no-utf8", "deep", "long-number", "cut"],
)  # fmt: skip
def test_a_body_that_is_no_json_is_refused(reader: TestClient, body: bytes) -> None:
    answer = reader.post("/api/v1/jobs", content=body, headers=JSON)
    assert answer.status_code in {400, 422}
    problem(answer)


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"text"', b'{"model": "\\ud800"}', b'{"notes": "\\u0000"}'])
def test_json_of_another_shape_says_where(reader: TestClient, body: bytes) -> None:
    answer = reader.post("/api/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 422
    assert problem(answer).errors


def test_json_says_at_which_character_it_breaks(reader: TestClient) -> None:
    answer = reader.post("/api/v1/jobs", content=b'{"model": nothing}', headers=JSON)
    assert (answer.status_code, problem(answer).code) == (400, "bad-json")
    assert "character 10" in answer.json()["detail"]


def test_a_body_that_says_it_is_too_large_is_not_read(reader: TestClient) -> None:
    def body() -> Any:
        raise AssertionError("the body was read")
        yield b""

    answer = reader.post("/api/v1/jobs", content=body(), headers=JSON | {"Content-Length": str(JSON_LIMIT + 1)})
    assert (answer.status_code, problem(answer).code) == (413, "too-large")


def test_a_body_that_turns_out_too_large_is_refused(reader: TestClient) -> None:
    piece = b" " * (1 << 20)
    answer = reader.post("/api/v1/jobs", content=(piece for _ in range(JSON_LIMIT // len(piece) + 1)), headers=JSON)
    assert (answer.status_code, problem(answer).code) == (413, "too-large")


@pytest.mark.parametrize(
    ("error", "status", "fault"),
    [
        (UserError("no", code="unknown-job"), 404, "user"),
        (UserError("no", code="some-new-code"), 422, "user"),
        (UserError("no", code="database-unreachable"), 503, "service"),
        (UserError("no", code="not-onnx"), 422, "user"),
        (InternalError("no", code="database-busy"), 503, "service"),
        (InternalError("no", code="storage-full"), 507, "service"),
        (InternalError("no", code="stale-driver"), 500, "service"),
        (CandidateError("no", code="odd"), 422, "candidate"),
        (DeviceError("no", code="odd"), 503, "service"),
    ],
)
def test_codes_become_statuses(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, fault: str
) -> None:
    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(service.jobs, "get", fail)
    answer = client.get("/api/v1/jobs/0a")
    assert answer.status_code == status
    assert problem(answer).fault == fault
    if status == 503:
        assert int(answer.headers["retry-after"]) > 0


def test_a_defect_is_told_by_its_number_only(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(service.jobs, "get", fail)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/api/v1/jobs/0a")
    assert (answer.status_code, problem(answer).code) == (500, "internal")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    logged = [record for record in caplog.records if answer.headers["x-request-id"] in record.getMessage()]
    assert logged[0].exc_info is not None


def test_the_kinds_of_errors_can_be_looked_up(reader: TestClient) -> None:
    for code, kind in KINDS.items():
        assert reader.get(f"/problems/{code}").json()["status"] == kind.status
        assert 400 <= kind.status < 600


def test_links_carry_the_prefix_of_a_proxy(tmp_path: Path) -> None:
    with serving(f"sqlite:///{tmp_path}/f.db", tmp_path / "data", root_path="/tools/fusetune") as service:
        job = service.job()
        with service.client() as client:
            for prefix in ("", "/tools/fusetune"):  # proxies that cut the prefix off, and those that leave it
                shown = client.get(f"{prefix}/api/v1/jobs/{job.id}")
                assert shown.json()["links"]["self"] == f"/tools/fusetune/api/v1/jobs/{job.id}"
                made = client.post(f"{prefix}/api/v1/jobs", json={"model": job.model, "fresh": True})
                assert made.headers["location"].startswith("/tools/fusetune/api/v1/jobs/")
                refused = client.put(f"{prefix}/api/v1/jobs")
                assert refused.json()["type"] == "/tools/fusetune/problems/method-not-allowed"
                assert refused.headers["allow"] == "GET, HEAD, OPTIONS, POST"
                document = client.get(f"{prefix}/api/v1/openapi.json").json()
                assert document["servers"] == [{"url": "/tools/fusetune"}]


def test_every_answer_has_an_id_of_its_own(reader: TestClient) -> None:
    ids = {reader.get("/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_requests_are_logged_with_their_ids(reader: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.access"):
        answer = reader.get("/api/v1/jobs")
    record = next(each for each in caplog.records if each.name == "service.access")
    assert record.__dict__["request"] == answer.headers["x-request-id"]
    assert (record.__dict__["status"], record.__dict__["path"]) == (200, "/api/v1/jobs")
    json.dumps(record.__dict__["ms"])
