"""Jobs over HTTP: what may be asked for, lists, actions."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.schemas.jobs import JobOut, JobPage
from tests.api_server import DEVICE, REPORT, TOOLCHAIN, Service
from tuner.types import Budget, JobSpec, JobState

JOBS = "/api/v1/jobs"


def ids(client: TestClient, **query: Any) -> list[str]:
    """Ids of all jobs of a list, read page by page."""
    found: list[str] = []
    cursor = None
    while True:
        page = client.get(JOBS, params={**query, **({"cursor": cursor} if cursor else {})})
        assert page.status_code == 200, page.text
        body = JobPage.model_validate(page.json())
        found += [job.id for job in body.items]
        cursor = body.next
        if cursor is None:
            return found


def test_a_submitted_job_is_shown_as_it_was_asked_for(either: Service) -> None:
    model = either.model()
    asked = {
        "model": model, "device": "cpu", "strategy": "greedy", "budget": {"trials": 7, "seconds": 12.5},
        "cores": [2, 1, 2], "precision": "fp32", "accuracy": 0.001, "shapes": {"x": [1, 3, 8, 8]},
        "disabled_passes": ["sum-to-add", "fold-constants"], "plan": None, "memory_limit": 2**30, "seed": 5,
        "fresh": True, "priority": 3, "notes": "für später",
    }  # fmt: skip
    with either.client() as client:
        created = client.post(JOBS, json=asked)
        shown = client.get(created.headers["location"])
    assert created.status_code == 202
    assert shown.json() == created.json()
    job = JobOut.model_validate(shown.json())
    assert (job.state, job.priority, job.notes) == (JobState.QUEUED, 3, "für später")
    assert (job.model.id, job.device.fingerprint) == (model, DEVICE.fingerprint)
    kept = shown.json()["spec"]
    expected = {**asked, "cores": [1, 2], "disabled_passes": ["fold-constants", "sum-to-add"]}
    assert kept == {name: value for name, value in expected.items() if name not in {"priority", "notes"}}
    assert either.dispatcher.woken == 1


def test_what_the_command_line_sends_is_understood(service: Service, client: TestClient) -> None:
    """service.client posts JobSpec.to_json() as it is."""
    spec = JobSpec(model=service.model(), strategy="greedy", budget=Budget(3, None))
    created = client.post(JOBS, json=spec.to_json())
    assert created.status_code == 202
    assert JobSpec.from_json(created.json()["spec"]) == spec


def test_a_job_without_a_budget_gets_one(service: Service, client: TestClient) -> None:
    created = client.post(JOBS, json={"model": service.model()})
    assert created.json()["spec"]["budget"] == {"trials": None, "seconds": 300.0}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"model": "../etc/passwd"}, "body.model"),
        ({"model": None}, "body.model"),
        ({"budget": {"trials": -1}}, "body.budget.trials"),
        ({"budget": {"trials": 2**63}}, "body.budget.trials"),
        ({"budget": {"trials": 1.5}}, "body.budget.trials"),
        ({"budget": {"seconds": 0}}, "body.budget.seconds"),
        ({"budget": {"hours": 1}}, "body.budget.hours"),
        ({"cores": []}, "body.cores"),
        ({"cores": [0]}, "body.cores.0"),
        ({"cores": list(range(1, 100))}, "body.cores"),
        ({"accuracy": 2}, "body.accuracy"),
        ({"seed": 2**70}, "body.seed"),
        ({"priority": 10**6}, "body.priority"),
        ({"notes": "a\0b"}, "body.notes"),
        ({"notes": "x" * 5000}, "body.notes"),
        ({"device": "c\0pu"}, "body.device"),
        ({"device": ""}, "body.device"),
        ({"strategy": "a b"}, "body.strategy"),
        ({"shapes": {"x": [0]}}, "body.shapes.x.0"),
        ({"shapes": {"x": [2**31]}}, "body.shapes.x.0"),
        ({"plan": []}, "body.plan"),
        ({"memory_limit": 1}, "body.memory_limit"),
        ({"extra": 1}, "body.extra"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(
    calm: Service, reader: TestClient, change: dict[str, Any], where: str
) -> None:
    refused = reader.post(JOBS, json={"model": calm.model()} | change)
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["code"] == "invalid-request"
    assert where in [each["where"] for each in problem["errors"]]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(calm: Service, reader: TestClient, number: str) -> None:
    body = f'{{"model": "{calm.model()}", "accuracy": {number}}}'
    refused = reader.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": "0" * 64}, 404, "unknown-model"),
        ({"device": "tpu"}, 404, "unknown-device"),
        ({"strategy": "magic"}, 422, "unknown-strategy"),
        ({"precision": "int2"}, 422, "bad-precision"),
        ({"cores": [64]}, 422, "bad-cores"),
        ({"disabled_passes": ["fold"]}, 422, "unknown-pass"),
        ({"plan": {}}, 422, "bad-plan"),
        ({"plan": {"version": 1, "graph": "", "stages": [{"lanes": [{}]}]}}, 422, "bad-plan"),
    ],
)
def test_what_is_impossible_has_a_code(
    calm: Service, reader: TestClient, change: dict[str, Any], status: int, code: str
) -> None:
    refused = reader.post(JOBS, json={"model": calm.model()} | change)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ({}, "missing-shape"),
        ({"mask": [2, 3, 1, 1]}, "missing-shape"),
        ({"image": [2, 3, 5, 8], "picture": [1]}, "unknown-input"),
        ({"image": [2, 3, 5]}, "shape-contradiction"),
        ({"image": [2, 4, 5, 8]}, "shape-contradiction"),
        ({"image": [2, 3, 5, 8], "mask": [1, 3, 1, 1]}, "shape-contradiction"),
        ({"image": [2, 3, 5, 8]}, None),
        ({"image": [2, 3, 5, 8], "mask": [2, 3, 1, 1]}, None),
    ],
)
def test_the_shapes_of_a_job_fit_its_model(
    service: Service, client: TestClient, shapes: dict[str, list[int]], code: str | None
) -> None:
    model = service.model()
    service.store.models.put(
        model, name="open", layers=1, macs=1, size=1, outputs=[], details={}, graph=None,
        inputs=[
            {"name": "image", "dtype": "float32", "shape": [1, 3, 224, 8], "open": True, "declared": ["N", 3, None, 8]},
            {"name": "mask", "dtype": "float32", "shape": [1, 3, 1, 1], "open": False, "declared": ["N", 3, 1, 1]},
        ],
    )  # fmt: skip
    answer = client.post(JOBS, json={"model": model, "shapes": shapes})
    assert answer.status_code == (202 if code is None else 422)
    assert answer.json().get("code") == code


def test_a_deep_plan_is_refused(calm: Service, reader: TestClient) -> None:
    plan: dict[str, Any] = {}
    for _ in range(100):
        plan = {"in": plan}
    refused = reader.post(JOBS, json={"model": calm.model(), "plan": plan})
    assert refused.status_code == 422


def test_the_same_request_with_a_key_is_one_job(either: Service) -> None:
    body = {"model": either.model(), "fresh": True}
    with either.client() as client:
        first = client.post(JOBS, json=body, headers={"Idempotency-Key": "once"})
        again = client.post(JOBS, json=body, headers={"Idempotency-Key": "once"})
        other = client.post(JOBS, json=body | {"seed": 1}, headers={"Idempotency-Key": "once"})
        apart = client.post(JOBS, json=body, headers={"Idempotency-Key": "twice"})
    assert (first.status_code, again.status_code, apart.status_code) == (202, 200, 202)
    assert first.json()["id"] == again.json()["id"] != apart.json()["id"]
    assert (other.status_code, other.json()["code"]) == (409, "idempotency-conflict")


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 201, "schl\u00fcssel"])
def test_a_key_that_is_none_is_refused(calm: Service, reader: TestClient, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("utf-8")}
    refused = reader.post(JOBS, json={"model": calm.model()}, headers=headers)  # type: ignore[arg-type]
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["where"] == "header.Idempotency-Key"


def test_a_known_answer_is_given_at_once(service: Service, client: TestClient) -> None:
    done = service.finished(fresh=False, budget=Budget(10, None))
    body = {"model": done.model, "budget": {"trials": 10}}
    reused = client.post(JOBS, json=body).json()
    assert (reused["state"], reused["reused"], reused["answered_by"]) == ("SUCCEEDED", True, done.id)
    assert reused["latency_ms"]["best"] == pytest.approx(10.0)
    assert client.get(reused["links"]["artifact"]).status_code == 200
    assert client.post(JOBS, json=body | {"fresh": True}).json()["state"] == "QUEUED"


def test_a_finished_job_carries_its_figures(service: Service, client: TestClient) -> None:
    job = client.get(f"{JOBS}/{service.finished().id}").json()
    assert job["latency_ms"] == pytest.approx({"best": 10.0, "unoptimised": 40.0, "onnxruntime": 15.0})
    paired = REPORT["speedup"]["over_onnxruntime"]  # not 15 / 10
    assert job["speedup"] == pytest.approx({"over_unoptimised": 4.0, "over_onnxruntime": paired})
    assert job["trials"] == {"measured": 2, "failed": 1, "reused": 0}
    assert job["finished_at"].endswith("Z")


def test_pages_of_a_list_join_without_gaps(either: Service) -> None:
    model = either.model()
    made = [either.job(model=model, seed=seed).id for seed in range(7)]
    with either.client() as client:
        assert ids(client, limit=3) == made[::-1]
        assert ids(client, limit=3, order="created_at") == made
        assert ids(client, limit=2, order="-priority") == made[::-1]


def test_filters_narrow_a_list(either: Service) -> None:
    one, other = either.model(), either.model(b"other", "other")
    waiting = either.job(model=one)
    running, _ = either.running(model=other)
    paused = either.job(model=one)
    either.jobs.act(paused.id, "pause")
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    with either.client() as client:
        assert ids(client, state="RUNNING") == [running.id]
        assert set(ids(client, state=["QUEUED", "PAUSED"])) == {waiting.id, paused.id}
        assert set(ids(client, model=one)) == {waiting.id, paused.id}
        assert ids(client, model=other[:8]) == ids(client, model="other") == [running.id]
        assert len(ids(client, device="cpu")) == len(ids(client, device=DEVICE.fingerprint)) == 3
        assert ids(client, device="gpu") == ids(client, created_after=soon) == []
        assert len(ids(client, created_before=soon)) == 3


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0}, {"limit": 201}, {"limit": "many"}, {"state": "DONE"}, {"order": "name"}, {"colour": "red"},
        {"created_after": "yesterday"}, {"created_after": "2026-03-01T00:00:00"}, {"model": "a\0"}, {"device": ""},
        {"created_after": "0001-01-01T00:00:00+14:00"}, {"created_before": "9999-12-31T23:59:59-12:00"},
    ],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused(reader: TestClient, query: dict[str, Any]) -> None:
    refused = reader.get(JOBS, params=query)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["where"].startswith(f"query.{next(iter(query))}")


@pytest.mark.parametrize("cursor", ["x", "WzFd", "%%%", "é", "a" * 1999])
def test_a_cursor_that_is_none_of_ours_is_refused(reader: TestClient, cursor: str) -> None:
    refused = reader.get(JOBS, params={"cursor": cursor})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad-cursor")


@pytest.mark.parametrize(
    ("order", "position"),
    [
        ("-priority", [2**40, "2026-01-01T00:00:00+00:00", "0a"]),
        ("-priority", [0, "0001-01-01T00:00:00+14:00", "0a"]),
        ("-created_at", ["9999-12-31T23:59:59-12:00", "0a"]),
        ("-created_at", ["2026-01-01T00:00:00+00:00", "a\0b"]),
        ("-created_at", ["2026-01-01T00:00:00+00:00", "\ud800"]),
        ("-created_at", [1, 2]),
    ],
)
def test_a_forged_cursor_is_refused_or_harmless(either: Service, order: str, position: list[Any]) -> None:
    """Whoever knows how cursors are made cannot reach the database with them as an error."""
    either.job()
    cursor = base64.urlsafe_b64encode(json.dumps([f"jobs {order}", *position]).encode()).decode().rstrip("=")
    with either.client() as client:
        answer = client.get(JOBS, params={"order": order, "cursor": cursor})
    assert answer.status_code in {200, 400}, answer.text


def test_actions_are_idempotent(either: Service) -> None:
    job = either.job()
    with either.client() as client:
        for action, state in [("pause", "PAUSED"), ("resume", "QUEUED"), ("cancel", "CANCELLED"), ("retry", "QUEUED")]:
            for _ in range(2):
                done = client.post(f"{JOBS}/{job.id}:{action}")
                assert (done.status_code, done.json()["state"]) == (200, state), action


def test_a_running_job_is_asked(service: Service, client: TestClient) -> None:
    job, _ = service.running()
    assert client.post(f"{JOBS}/{job.id}:pause").json()["wanted"] == "pause"
    assert client.post(f"{JOBS}/{job.id}:resume").json()["wanted"] is None
    cancelled = client.post(f"{JOBS}/{job.id}:cancel").json()
    assert (cancelled["state"], cancelled["wanted"]) == ("CANCELLING", "cancel")


def test_an_action_that_the_state_does_not_allow(service: Service, client: TestClient) -> None:
    refused = client.post(f"{JOBS}/{service.finished().id}:pause")
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong-state")


@pytest.mark.parametrize("path", ["x:explode", "0a:explode", "Z", "0a0a", "0a0a:cancel", "%00", "..%2f..", "a" * 500])
def test_a_job_that_is_none_is_not_found(reader: TestClient, path: str) -> None:
    method = "POST" if ":" in path else "GET"
    refused = reader.request(method, f"{JOBS}/{path}")
    assert refused.status_code == 404
    assert refused.headers["content-type"] == "application/problem+json"


def test_only_ended_jobs_can_be_deleted(service: Service, client: TestClient) -> None:
    done, waiting = service.finished(), service.job()
    assert client.delete(f"{JOBS}/{waiting.id}").json()["code"] == "wrong-state"
    assert client.delete(f"{JOBS}/{done.id}").status_code == 204
    assert client.delete(f"{JOBS}/{done.id}").json()["code"] == "unknown-job"
    assert service.store.records.search(limit=1).items, "records outlive the job"


def test_lists_leave_plans_out(service: Service, client: TestClient) -> None:
    # Straight into the books: no model here that a plan could be checked against.
    spec = JobSpec(service.model(), plan={"version": 1})
    job, _ = service.store.jobs.submit(spec, DEVICE.fingerprint, TOOLCHAIN)
    assert client.get(f"{JOBS}/{job.id}").json()["spec"]["plan"] == {"version": 1}
    assert client.get(JOBS).json()["items"][0]["spec"]["plan"] is None
