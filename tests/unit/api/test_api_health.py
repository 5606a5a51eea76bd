"""Health, readiness and metrics."""

from __future__ import annotations

import re
import shutil

import pytest
from fastapi.testclient import TestClient

from tests.api_server import Service


def test_a_working_server_is_ready(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    checks = client.get("/readyz").json()["checks"]
    assert {name: each["ok"] for name, each in checks.items()} == {
        "database": True, "storage": True, "dispatcher": True
    }  # fmt: skip


def test_a_server_without_dispatcher_thread_is_not_ready(service: Service, client: TestClient) -> None:
    service.dispatcher.alive = False
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
    assert answer.json()["checks"]["dispatcher"]["ok"] is False
    assert answer.json()["checks"]["database"]["ok"] is True


def test_a_server_without_storage_is_not_ready(service: Service, client: TestClient) -> None:
    shutil.rmtree(service.blobs.folder)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["storage"]["ok"] is False
    assert str(service.blobs.folder) not in answer.text, "paths are for the log"


def test_a_server_without_database_lives_but_is_not_ready(service: Service, client: TestClient) -> None:
    service.store.close()
    with open(service.settings.db.removeprefix("sqlite:///"), "wb") as file:
        file.write(b"no database at all" * 1000)
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"]["ok"] is False


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"{name} is missing"
    return float(found[1])


def test_metrics_count_requests_by_template(service: Service, client: TestClient) -> None:
    for id in ("0a", "0b"):
        client.get(f"/api/v1/jobs/{id}")
    client.get("/scan/of/odd/addresses")
    text = client.get("/metrics").text
    assert value(text, 'fusetune_http_requests_total{method="GET",route="/api/v1/jobs/{id}",status="404"}') == 2
    assert value(text, 'fusetune_http_requests_total{method="GET",route="other",status="404"}') == 1
    assert value(text, 'fusetune_http_request_seconds_count{route="/api/v1/jobs/{id}"}') == 2
    assert "0a" not in text


def test_metrics_tell_the_state_of_the_service(either: Service) -> None:
    either.finished()
    either.job()
    with either.client() as client:
        text = client.get("/metrics").text
    assert value(text, 'fusetune_jobs{state="QUEUED"}') == 1
    assert value(text, 'fusetune_jobs{state="SUCCEEDED"}') == 1
    assert value(text, 'fusetune_jobs{state="FAILED"}') == 0
    assert value(text, 'fusetune_trials{result="ok"}') == value(text, 'fusetune_trials{result="failed"}') == 1
    assert value(text, "fusetune_queue_age_seconds") > 0
    assert value(text, "fusetune_blob_bytes") == either.blobs.usage() > 0
    assert value(text, "fusetune_dispatcher_up") == 1
    assert value(text, "fusetune_event_watchers") == 0


def test_a_scrape_asks_the_database_once_in_a_while(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    counts = service.store.jobs.counts
    monkeypatch.setattr(service.store.jobs, "counts", lambda: asked.append(1) or counts())
    for _ in range(3):
        client.get("/metrics")
    assert len(asked) == 1
