"""`fusetune serve` as a process: its link, its end, the demo, and what a restart finds."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_tools import complete, fusetune, left_behind, start, trials_in

pytestmark = pytest.mark.alone

PATIENCE = 150.0  # seconds for a step on a busy machine


@dataclass
class Server:
    """A running `fusetune serve` and what it has printed."""

    process: subprocess.Popen[str]
    home: Path
    said: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def link(self) -> str:
        found = re.search(r"http://\S+/login\?code=\S+", self.text)
        assert found, self.text
        return found[0]

    def wait(self, ready: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := ready()):
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.text}"
            assert time.monotonic() < deadline, f"no {what}: {self.text}"
            time.sleep(0.1)
        return found

    def client(self) -> httpx.Client:
        token = fusetune(self.home, "token", "create", "test", "--data", "served")
        assert token.code == 0, token.err
        base = self.link.partition("/login")[0]
        return httpx.Client(base_url=base, headers={"authorization": f"Bearer {token.out.strip()}"}, timeout=30)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextmanager
def serving(home: Path, *options: object) -> Iterator[Server]:
    process = start(["serve", "--port", "0", "--data", "served", *options], home, stderr=subprocess.STDOUT)
    server = Server(process, home)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            server.said.append(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        server.wait(lambda: "Ctrl-C stops it" in server.text, "greeting")
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(timeout=10)


def test_the_printed_link_signs_a_browser_in_and_sigterm_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        base, _, code = server.link.partition("/login?code=")
        with httpx.Client(base_url=base, follow_redirects=False, timeout=30) as browser:
            assert browser.get("/api/v1/jobs").status_code == 401
            assert browser.get("/login", params={"code": code}).status_code == 200
            assert browser.post("/login", data={"code": code}).status_code == 303
            assert browser.get("/api/v1/jobs").status_code == 200
            assert browser.get("/healthz").status_code == browser.get("/readyz").status_code == 200
            # Nothing a client sends makes it name itself or its libraries' versions.
            assert "server" not in browser.get("/healthz").headers
        assert server.end(signal.SIGTERM) == 0
        assert code not in server.text.replace(server.link, "")
    assert left_behind(tmp_path) == []


def test_an_open_connection_does_not_hold_the_server_up(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-auth") as server, httpx.Client(base_url=server_address(server), timeout=30) as client:
        assert client.get("/healthz").status_code == 200  # and the connection stays open
        assert server.end(signal.SIGINT) == 0


def server_address(server: Server) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+", server.text)
    assert found
    return found[0]


def running(client: httpx.Client) -> dict[str, Any] | None:
    jobs = client.get("/api/v1/jobs", params={"state": "RUNNING"}).json()["items"]
    return jobs[0] if jobs else None


@pytest.mark.slow  # the dispatcher's own test of this is quicker
def test_a_stopped_server_hands_its_job_back_and_the_next_one_finishes_it(tmp_path: Path, net: Path) -> None:
    options = ["--demo", net, "--seconds", 15]
    with serving(tmp_path, *options) as server, server.client() as client:
        job = server.wait(lambda: running(client), "running job")
        events: list[str] = []
        with client.stream("GET", f"/api/v1/jobs/{job['id']}/events") as stream:
            follower = threading.Thread(target=lambda: events.extend(_lines(stream)), daemon=True)
            follower.start()
            server.wait(lambda: events, "event")
            assert server.end(signal.SIGINT) == 0
            follower.join(timeout=30)
            assert not follower.is_alive()
    assert left_behind(tmp_path) == []
    before = trials_in(tmp_path / "served" / "fusetune.db")
    with serving(tmp_path, *options, "--once") as server:
        assert server.process.wait(timeout=PATIENCE) == 0, server.text
    assert f"Going on with job {job['id']}" in server.text
    assert "speed-up of tuned" in server.text
    after = trials_in(tmp_path / "served" / "fusetune.db")
    assert after[: len(before)] == before
    assert len(set(after)) == len(after)  # what was committed was not run again
    assert complete(tmp_path / "served" / "net")
    assert left_behind(tmp_path) == []


def test_a_second_interrupt_ends_everything_at_once(tmp_path: Path, net: Path) -> None:
    with serving(tmp_path, "--demo", net, "--seconds", 60) as server, server.client() as client:
        server.wait(lambda: running(client), "running job")
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) in {0, 130}  # 0 if the first one was through already
    assert left_behind(tmp_path) == []


def test_a_demo_that_cannot_be_tuned_says_so_and_ends_with_1(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    with serving(tmp_path, "--demo", broken, "--once") as server:
        assert server.process.wait(timeout=PATIENCE) == 1
    assert "The demo failed" in server.text


def _lines(stream: httpx.Response) -> Iterator[str]:
    with suppress(httpx.TransportError):  # the server ended the stream
        yield from stream.iter_lines()
