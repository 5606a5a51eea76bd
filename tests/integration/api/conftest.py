"""A service behind a real uvicorn on a free port of loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from tests.api_server import Service, serving


@dataclass
class Live:
    """A running server."""

    service: Service
    url: str
    token: str
    server: uvicorn.Server
    thread: threading.Thread

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def stop(self) -> None:
        """As `fusetune serve` ends: streams first."""
        self.service.app.state.context.hub.close()
        self.server.should_exit = True
        self.thread.join(timeout=60)
        assert not self.thread.is_alive(), "the server does not end"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with running(f"sqlite:///{tmp_path}/fusetune.db", tmp_path) as made:
        yield made


@pytest.fixture
def live_either(url: str, tmp_path: Path) -> Iterator[Live]:
    """On SQLite and on PostgreSQL."""
    with running(url, tmp_path) as made:
        yield made


@contextmanager
def running(url: str, folder: Path) -> Iterator[Live]:
    """A server with authentication on this database, its files in a folder."""
    with serving(url, folder / "data", auth=True) as service:
        _, token = service.store.access.tokens.create("tests", "full")
        config = uvicorn.Config(service.app, host="127.0.0.1", port=0, log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        made = Live(service, f"http://127.0.0.1:{port}", token, server, thread)
        try:
            yield made
        finally:
            made.stop()
