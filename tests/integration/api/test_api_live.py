"""Event streams and uploads of a real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from conftest import Live

from tuner.types import JobState

pytestmark = pytest.mark.alone

STREAM = {"Accept": "text/event-stream"}


def lines(live: Live, job: str, **headers: str) -> Iterator[str]:
    """Lines of a job's event stream until it ends."""
    with httpx.stream(
        "GET", f"{live.url}/api/v1/jobs/{job}/events", headers=live.auth | STREAM | headers, timeout=30
    ) as answer:
        assert answer.status_code == 200
        yield from answer.iter_lines()


def until(condition: object, what: str) -> None:
    """Wait for something that will be."""
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def watching(live: Live) -> int:
    return len(live.service.app.state.context.hub._streams)


def test_watchers_see_a_job_to_its_end(live: Live) -> None:
    job, claim = live.service.running()
    seen: list[list[str]] = [[] for _ in range(5)]
    threads = [
        threading.Thread(target=lambda mine=mine: mine.extend(lines(live, job.id)))  # type: ignore[misc]
        for mine in seen
    ]
    for thread in threads:
        thread.start()
    until(lambda: watching(live) == 5, "five streams")
    for number in range(3):
        live.service.store.queue.progress(claim, event=True, measured=number)
    live.service.store.queue.finish(claim, JobState.SUCCEEDED)
    for thread in threads:
        thread.join(timeout=30)
    assert all(mine == seen[0] for mine in seen)
    kinds = [line.removeprefix("event: ") for line in seen[0] if line.startswith("event: ")]
    assert kinds == ["state", "state", "progress", "progress", "progress", "state", "end"]
    numbers = [int(line.removeprefix("id: ")) for line in seen[0] if line.startswith("id: ")]
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_a_client_that_leaves_is_forgotten(live: Live) -> None:
    job, _ = live.service.running()
    stream = lines(live, job.id)
    next(stream)
    until(lambda: watching(live) == 1, "one stream")
    stream.close()  # type: ignore[attr-defined]
    until(lambda: watching(live) == 0, "no stream")


def test_the_server_ends_with_streams_open(live: Live) -> None:
    job, _ = live.service.running()
    ended = threading.Event()

    def watch() -> None:
        for _ in lines(live, job.id):
            pass
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    until(lambda: watching(live) == 1, "one stream")
    live.stop()
    assert ended.wait(30), "the stream ends in order"


def test_streams_need_a_token(live: Live) -> None:
    job, _ = live.service.running()
    refused = httpx.get(f"{live.url}/api/v1/jobs/{job.id}/events", headers=STREAM)
    assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    assert refused.headers["www-authenticate"].startswith("Bearer")


def test_an_upload_that_breaks_off_leaves_nothing(live: Live) -> None:
    port = int(live.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = f"POST /api/v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {live.token}\r\n"
        client.sendall(f"{head}Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n".encode())
        client.sendall(b"x" * 5000)
        unfinished = live.service.blobs.unfinished
        until(lambda: any(unfinished.iterdir()), "an upload under way")
    until(lambda: not any(unfinished.iterdir()), "no upload")
    assert live.service.blobs.usage() == 0
    assert httpx.get(f"{live.url}/healthz").status_code == 200


@pytest.mark.parametrize(
    "request_line", ["GET /api/v1/jobs?state=%00 HTTP/1.1", "GET /api/v1/jobs/%ED%A0%80 HTTP/1.1",
                     "GET /api/v1/models/..%2f..%2fetc%2fpasswd HTTP/1.1", "GET //api//v1//jobs HTTP/1.1",
                     "GET /api/v1/jobs?limit=9999999999999999999999 HTTP/1.1", "PROPFIND /api/v1/jobs HTTP/1.1"]
)  # fmt: skip
def test_odd_requests_are_problems(live: Live, request_line: str) -> None:
    port = int(live.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = f"{request_line}\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {live.token}\r\nConnection: close\r\n\r\n"
        client.sendall(head.encode())
        answer = b""
        while part := client.recv(65536):
            answer += part
    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500
    assert b"application/problem+json" in answer
