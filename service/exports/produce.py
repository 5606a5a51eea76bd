"""Files that only a child process can write (Optuna, TVM): made once, kept for a while, within limits.

All state lies in one folder, so that several server processes may share it: a lock file lets one child work at a time
on this machine (somebody may be measuring), finished files are named by what they were made of.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tuner.environment import child_environment
from tuner.errors import FusetuneError, InternalError, UserError

LIMIT_SECONDS = 300.0  # for one file, waiting for its turn included
KEPT_FILES, KEPT_BYTES = 16, 512 << 20
STALE_SECONDS = 2 * LIMIT_SECONDS  # a half-written file so old belongs to a server that died
_POLL = 0.1
_LATE = {
    "log-busy": "Other logs are being written; there was no turn for this one.",
    "log-slow": "Writing the log took too long.",
}

Gone = Callable[[], Awaitable[bool]]  # whether the client has left


async def never() -> bool:
    """A client that does not leave."""
    return False


@dataclass(frozen=True)
class Production:
    """One file to be made: ``python -m module --job job --out FILE``."""

    module: str
    job: str
    version: str  # another one makes another file: the job has gone on
    suffix: str

    @property
    def family(self) -> str:
        return f"{self.job}-{self.module.rpartition('.')[2]}-"

    @property
    def name(self) -> str:
        return f"{self.family}{self.version}{self.suffix}"


async def produce(
    folder: Path, what: Production, db_url: str, gone: Gone = never, limit: float = LIMIT_SECONDS
) -> IO[bytes]:
    """The file, open for reading; it stays readable when it is cleared away meanwhile.

    The child is killed when the client leaves, the caller is cancelled or the time is over.

    Raises:
        UserError: what the child says of the job; ``client-left``.
        InternalError: ``log-busy`` (no turn in time), ``log-slow``, ``log-failed``.
    """
    deadline = time.monotonic() + limit
    if kept := _open(folder / what.name):
        return kept
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with _turn(folder, deadline, gone):
        if kept := _open(folder / what.name):  # made while this one waited
            return kept
        _tidy(folder, what)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
        os.close(handle)
        part = Path(name)
        try:
            await _run(what, part, db_url, deadline, gone)
            made = part.open("rb")
            part.rename(folder / what.name)
            return made
        finally:
            part.unlink(missing_ok=True)


async def _run(what: Production, part: Path, db_url: str, deadline: float, gone: Gone) -> None:
    command = [sys.executable, "-m", what.module, "--job", what.job, "--out", str(part)]
    environment = child_environment() | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as said:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=said, stderr=asyncio.subprocess.STDOUT,
            start_new_session=True, env=environment,
        )  # fmt: skip
        try:
            assert child.stdin is not None  # stays open: its end is the child's end
            child.stdin.write(f"{db_url}\n".encode())
            while child.returncode is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(child.wait()), _POLL)
                await _check(deadline, gone, "log-slow")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
        if child.returncode:
            raise _failure(said, child.returncode)


def _failure(said: IO[bytes], code: int) -> FusetuneError:
    """What the child's last words mean."""
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    for line in reversed(lines if code == 2 else ()):  # libraries may talk while the process ends
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error = json.loads(line)
            return UserError(error["message"], code=error["code"], hint=error["hint"])
    last = lines[-1] if lines else "it said nothing"
    ended = f"with code {code}" if code > 0 else f"of signal {-code}"
    return InternalError(f"The program that writes the log ended {ended}: {last}", code="log-failed")


@contextlib.asynccontextmanager
async def _turn(folder: Path, deadline: float, gone: Gone) -> AsyncIterator[None]:
    with (folder / ".turn").open("w") as lock:  # released by the kernel, however this process ends
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await _check(deadline, gone, "log-busy")
                await asyncio.sleep(_POLL)
        yield


async def _check(deadline: float, gone: Gone, late: str) -> None:
    if await gone():
        raise UserError("The client left before the log was written.", code="client-left")
    if time.monotonic() > deadline:
        raise InternalError(_LATE[late], code=late, hint="Try again later, or take the log as JSON lines.")


def _open(path: Path) -> IO[bytes] | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # files used lately are kept
    return file


def _tidy(folder: Path, what: Production) -> None:
    """Clear earlier versions of this file, remains of dead servers, and what was longest unused beyond the limits."""
    now, kept, size = time.time(), 0, 0
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    for used, length, path in sorted(found, key=lambda f: f[0], reverse=True):
        if path.name == ".turn":
            continue
        half = path.name.startswith(".part-")
        kept, size = kept + (not half), size + length
        over = not half and (kept >= KEPT_FILES or size > KEPT_BYTES or path.name.startswith(what.family))
        if over or (half and now - used > STALE_SECONDS):
            path.unlink(missing_ok=True)
