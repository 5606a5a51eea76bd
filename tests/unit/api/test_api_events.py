"""Events over HTTP, by polling and through the test client; a real server's streams are tests of integration."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api_server import Service

STREAM = {"Accept": "text/event-stream"}
POLL = {"Accept": "application/json"}


def poll(client: TestClient, job: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/api/v1/jobs/{job}/events", params=query, headers=POLL)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_polling_goes_on_where_it_stopped(either: Service) -> None:
    job, claim = either.running()
    with either.client() as client:
        first = poll(client, job.id)
        assert [(each["seq"], each["kind"], each["data"]["state"]) for each in first["items"]] == [
            (1, "state", "QUEUED"), (2, "state", "RUNNING"),
        ]  # fmt: skip
        assert poll(client, job.id, after=first["next"]) == {"items": [], "next": 2}
        either.store.queue.progress(claim, event=True, stage="search", measured=3, best_seconds=0.02)
        (news,) = poll(client, job.id, after=first["next"])["items"]
        assert [each["seq"] for each in poll(client, job.id, after=0, limit=2)["items"]] == [1, 2]
    assert (news["seq"], news["kind"]) == (3, "progress")


def test_progress_speaks_as_a_job_does(service: Service, client: TestClient) -> None:
    job, claim = service.running()
    service.store.queue.progress(
        claim, event=True, stage="search", message="measuring", done=3.0, total=10.0, unit="trials", measured=3,
        failed=1, reused_trials=2, best_seconds=0.02, unoptimised_seconds=0.08, elapsed=4.5,
    )  # fmt: skip
    data = poll(client, job.id, after=2)["items"][0]["data"]
    shown = client.get(f"/api/v1/jobs/{job.id}").json()
    assert data["progress"] == shown["progress"] == {"done": 3.0, "total": 10.0, "unit": "trials"}
    assert data["trials"] == shown["trials"] == {"measured": 3, "failed": 1, "reused": 2}
    assert {**shown["latency_ms"], **data["latency_ms"]} == shown["latency_ms"]
    assert (data["stage"], data["message"], data["elapsed_seconds"]) == ("search", "measuring", 4.5)


def test_a_stream_of_an_ended_job_ends(service: Service, client: TestClient) -> None:
    job = service.finished()
    answer = client.get(f"/api/v1/jobs/{job.id}/events", headers=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    blocks = [block for block in answer.text.split("\n\n") if block]
    assert blocks[0] == "retry: 2000"
    assert blocks[1].startswith('id: 1\nevent: state\ndata: {"state":"QUEUED"')
    assert blocks[-1] == 'event: end\ndata: {"state":"SUCCEEDED","reason":null}'


def test_a_stream_goes_on_after_the_last_event_seen(service: Service, client: TestClient) -> None:
    job = service.finished()
    path = f"/api/v1/jobs/{job.id}/events"
    last = poll(client, job.id)["next"]
    resumed = client.get(path, params={"after": 0}, headers=STREAM | {"Last-Event-ID": str(last - 1)}).text
    assert f"id: {last}\n" in resumed
    assert f"id: {last - 1}\n" not in resumed
    assert "event: state" not in client.get(path, headers=STREAM | {"Last-Event-ID": str(last)}).text


@pytest.mark.parametrize("accept", ["*/*", None])
def test_without_a_wish_a_number_means_polling(service: Service, client: TestClient, accept: str | None) -> None:
    path = f"/api/v1/jobs/{service.finished().id}/events"
    headers = {"Accept": accept} if accept else {}
    assert client.get(path, headers=headers).headers["content-type"].startswith("text/event-stream")
    assert client.get(path, params={"after": 0}, headers=headers).headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("query", "headers", "where"),
    [
        ({"after": -1}, POLL, "query.after"),
        ({"after": 2**31}, POLL, "query.after"),
        ({"after": "x"}, STREAM, "query.after"),
        ({"limit": 0}, POLL, "query.limit"),
        ({}, STREAM | {"Last-Event-ID": "x"}, "header.Last-Event-ID"),
        ({}, STREAM | {"Last-Event-ID": "-1"}, "header.Last-Event-ID"),
    ],
)
def test_a_number_that_is_none_is_refused(
    reader: TestClient, query: dict[str, Any], headers: dict[str, str], where: str
) -> None:
    refused = reader.get("/api/v1/jobs/0a/events", params=query, headers=headers)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["where"] == where


def test_head_of_a_stream_does_not_wait(service: Service, client: TestClient) -> None:
    job, _ = service.running()
    head = client.head(f"/api/v1/jobs/{job.id}/events", headers=STREAM)
    assert (head.status_code, head.content) == (200, b"")
