"""A real ``fusetune serve`` as a process, its client, and ways to kill what belongs to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cli_tools import environment

from db.jobs import Job
from db.store import Store
from tuner.types import JobState

READY = 60.0  # seconds a server may take to answer
LIMIT = 240.0  # seconds after which a job hangs
ENDED = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


class ServerProcess:
    """``fusetune serve`` on a free port with its data in ``folder``; made, it is ready."""

    def __init__(self, folder: Path, *options: object, db: str | None = None) -> None:
        self.folder = folder
        self.data = folder / "data" / "fusetune"
        self.db = db or f"sqlite:///{folder}/f.db"
        command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data", self.data, "--db", self.db]
        self.process = subprocess.Popen(
            [*map(str, command), *map(str, options)], cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._find(r"ready on (http://\S+?)/? and")
        self.link = self._find(r"Sign in: (\S+)") if "--no-auth" not in options else self.url

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(10)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def _find(self, pattern: str) -> str:
        end = time.monotonic() + READY
        while time.monotonic() < end:
            if found := re.search(pattern, self.output):
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the server did not get ready:\n{self.output}")


@contextmanager
def serving(folder: Path, *options: object, db: str | None = None) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, *options, db=db)
    try:
        yield server
    finally:
        server.close()


def drivers(data: Path) -> list[int]:
    """Driver processes of this server that work on a job."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"service.dispatch.driver" in (process / "cmdline").read_bytes():
                output = os.readlink(process / "fd" / "1")
                if output.startswith(str(data)) and "/spare-" not in output:
                    found.append(int(process.name))
    return found


def family(data: Path) -> list[int]:
    """Every process that has a file of this server's work folder open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(f).startswith(str(data / "work")) for f in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def wait(store: Store, job: str, until: Callable[[Job], object], limit: float = LIMIT) -> Job:
    """The job once ``until`` holds of it."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        now = store.jobs.get(job)
        assert now is not None
        if until(now):
            return now
        time.sleep(0.05)
    raise AssertionError((store.jobs.get(job), store.queue.attempts(job)))
