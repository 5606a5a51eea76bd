"""A ``fusetune serve`` of its own: empty database, free port, a token, and a watch on its memory and processor time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from service.client import Client
from tuner.errors import FusetuneError, InternalError

COMMAND = (sys.executable, "-m", "service.cli")
START_SECONDS = 60.0
SAMPLE_SECONDS = 0.5


@dataclass
class Server:
    """A running server. ``peak`` is the most memory it had at once, in bytes, its drivers not counted."""

    url: str
    token: str
    folder: Path
    process: psutil.Process
    peak: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder / 'fusetune.db'}"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self) -> Client:
        return Client(self.url, self.token)

    def cpu_seconds(self) -> float:
        """Processor time it used so far, its drivers not counted."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def sample(self) -> None:
        """Watch the memory until the server ends."""
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                self.peak = max(self.peak, self.process.memory_info().rss)
            except psutil.NoSuchProcess:
                return


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server on a free port, without a rate limit; killed at the end with all its drivers.

    Raises:
        InternalError: it does not start (``no-server``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", folder / "server.log"
    options = ("--data", str(folder), "--port", str(port), "--rate", "0", "--log-json")
    with log.open("wb") as out:
        child = subprocess.Popen((*COMMAND, "serve", *options), stdout=out, stderr=out, start_new_session=True)
    try:
        made = subprocess.run(
            (*COMMAND, "token", "create", "bench", "--data", str(folder)), capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise InternalError(f"No token: {made.stderr.strip()}", code="no-server")
        server = Server(url, made.stdout.strip(), folder, psutil.Process(child.pid))
        _await(server, child, log)
        watcher = threading.Thread(target=server.sample, daemon=True)
        watcher.start()
        yield server
        server._stop.set()
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _await(server: Server, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with server.client() as client:
        while time.monotonic() < deadline and child.poll() is None:
            try:
                client.jobs(limit=1)
                return
            except FusetuneError:
                time.sleep(0.2)
    raise InternalError(f"The server did not start: {log.read_text()[-2000:]}", code="no-server")
