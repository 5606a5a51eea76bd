"""One child process as its parent sees it: JSON lines over pipes, limits on time and memory, no survivors.

A child leads a session of its own, so that killing its process group takes its grandchildren along. Its *lifeline* is
a pipe whose only writing end is ours: the child asks the kernel to SIGKILL its whole group when that end closes (see
``tuner.lifeline``), which also holds when we are killed ourselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tuner.types import Failure, FailureKind

STDERR_TAIL = 8192  # bytes kept of what a child wrote
_MEMORY_PERIOD = 0.04  # seconds between looks at a child's memory: rare enough not to disturb what it measures
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Outcome:
    """How a request ended: the child's answer or why there is none; ``died`` = the child is gone."""

    answer: Mapping[str, Any] | None
    failure: Failure | None
    seconds: float
    died: bool = False


class Child:
    """A persistent child that answers one request at a time.

    It starts out busy with importing what it needs; its first outcome says whether it could.
    """

    def __init__(
        self, role: str, config: Mapping[str, Any], stderr: Path, env: Mapping[str, str], limit: float, memory: int
    ) -> None:
        self.role = role
        self.busy = True
        self.ready = False
        self._memory = memory
        self._stderr_path = stderr
        self._stderr = os.open(stderr, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        lifeline, self._lifeline = os.pipe()
        theirs = (requests, replies, lifeline)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tuner.measure.child", role, *map(str, theirs)],
                stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr, pass_fds=theirs, env=env,
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            for fd in (self._requests, self._replies, self._lifeline, self._stderr):
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._pidfd = os.pidfd_open(self._process.pid)
        os.set_blocking(self._replies, False)
        self._buffer = bytearray()
        self._open = True
        self._begin(dict(config), limit)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is known to be gone, and was reaped."""
        return self._process.returncode is not None

    def send(self, request: Mapping[str, Any], limit: float) -> None:
        """Give an idle child something to do within ``limit`` seconds."""
        os.ftruncate(self._stderr, 0)
        self._begin(request, limit)

    def _begin(self, request: Mapping[str, Any], limit: float) -> None:
        self.busy = True
        self._started = time.monotonic()
        self._limit = limit
        self._oom_kills = _oom_kills()
        # What the child held before this request is not the candidate's; while it imports there is no candidate.
        self._base = self._memory_in_use() if self.ready else None
        self._next_look = self._started + _MEMORY_PERIOD
        try:
            data = memoryview(json.dumps(request).encode() + b"\n")
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            pass  # it died: collect() says how

    def collect(self) -> Outcome | None:
        """The outcome of the request in progress, if it has come to one. Never blocks."""
        answer = self._read()
        if answer is not None:
            self.busy = False
            self.ready = True
            return Outcome(answer.get("answer"), self._declined(answer), self._elapsed)
        if _readable(self._pidfd):
            return self._dead()
        if self._elapsed > self._limit:
            return self._stop(FailureKind.TIMEOUT, f"It did not end within {self._limit:g} s.")
        if self._over_memory():
            return self._stop(FailureKind.MEMORY, f"It needed more than {self._memory >> 20} MiB of memory.")
        return None

    def kill(self) -> None:
        """SIGKILL for the child and all that it started. Safe from any thread, and again."""
        if not self.ended:
            for pid in _descendants(self.pid):
                _signal(os.kill, pid)  # those that left the group
            _signal(os.killpg, self.pid)  # before the reaping: until then nobody else can have this number
            self._process.wait()

    def dispose(self) -> None:
        """Kill, and close our ends of the pipes. Only for the thread that collects, or when none does."""
        self.kill()
        if self._open:
            self._open = False
            for fd in (self._requests, self._replies, self._lifeline, self._stderr, self._pidfd):
                os.close(fd)
            self._stderr_path.unlink(missing_ok=True)

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _read(self) -> dict[str, Any] | None:
        """The next complete line, if there is one."""
        try:
            while chunk := os.read(self._replies, 1 << 16):
                self._buffer += chunk
        except BlockingIOError:
            pass
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _declined(self, answer: Mapping[str, Any]) -> Failure | None:
        if "failure" not in answer:
            return None
        return Failure(FailureKind(answer["failure"]), answer["message"], self._tail())

    def _dead(self) -> Outcome:
        seconds = self._elapsed
        self.kill()  # reaps it, and ends what it may have left in its group
        tail, code = self._tail(), self._process.returncode
        died = f"died of {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        failure = Failure(FailureKind.CRASH, f"Its process {died}.", tail)
        if code == -signal.SIGKILL and _oom_kills() > self._oom_kills:
            failure = Failure(FailureKind.MEMORY, "The kernel's out-of-memory killer ended its process.", tail)
        elif "std::bad_alloc" in tail or "MemoryError" in tail:
            failure = Failure(FailureKind.MEMORY, f"It ran out of memory: its process {died}.", tail)
        self.busy = False
        return Outcome(None, failure, seconds, died=True)

    def _stop(self, kind: FailureKind, message: str) -> Outcome:
        seconds = self._elapsed
        self.kill()
        self.busy = False
        return Outcome(None, Failure(kind, message, self._tail()), seconds, died=True)

    def _over_memory(self) -> bool:
        now = time.monotonic()
        if self._base is None or now < self._next_look:
            return False
        self._next_look = now + _MEMORY_PERIOD
        return self._memory_in_use() - self._base > self._memory

    def _memory_in_use(self) -> int:
        return _memory(self.pid)

    def _tail(self) -> str:
        size = os.fstat(self._stderr).st_size
        return os.pread(self._stderr, STDERR_TAIL, max(0, size - STDERR_TAIL)).decode(errors="replace")


def wait(children: Iterable[Child], timeout: float) -> None:
    """Sleep until one of these children answers or dies, or ``timeout`` seconds passed."""
    poll = select.poll()
    for child in children:
        poll.register(child._replies, select.POLLIN)
        poll.register(child._pidfd, select.POLLIN)
    poll.poll(timeout * 1000)


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _signal(send: Any, target: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        send(target, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Pages(NamedTuple):
    mapped: int
    anonymous: int


def _memory(pid: int, parent: _Pages | None = None) -> int:
    """Bytes of memory that no file backs, of a process and all that it started. Mapped references do not count.

    Between fork and exec a process has its parent's memory, which counts once: on a busy machine that may take long.
    """
    held = _pages(pid)
    own = held.anonymous
    if parent is not None and held.mapped == parent.mapped:
        own = max(0, own - parent.anonymous)
    return own * _PAGE + sum(_memory(child, held) for child in _children(pid))


def _pages(pid: int) -> _Pages:
    """Zeros when it is gone."""
    try:
        mapped, resident, shared = map(int, Path(f"/proc/{pid}/statm").read_bytes().split()[:3])
    except (OSError, ValueError):
        return _Pages(0, 0)
    return _Pages(mapped, resident - shared)


def _descendants(pid: int) -> list[int]:
    """Children, grandchildren and so on of a process, as far as the kernel tells."""
    return [one for child in _children(pid) for one in (child, *_descendants(child))]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where it does not say."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
