"""Requests at a fixed rate, and watchers, over plain asyncio: the generator must cost less than what it measures."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

from bench.service.server import Server

CONNECTIONS = 32  # kept open; more requests at once than that wait, and their waiting counts


@dataclass
class Latencies:
    """Seconds from when a request was due to when its answer was there, and how many were no success."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0

    def percentile(self, share: float) -> float:
        """The smallest latency that at least this share of the requests did not exceed; infinity without any."""
        ranked = sorted(self.seconds)
        return ranked[math.ceil(share * len(ranked)) - 1] if ranked else math.inf


@dataclass(frozen=True)
class Request:
    """What is sent; ``make`` gives method, path and JSON body, anew each time."""

    name: str
    make: Callable[[], tuple[str, str, dict[str, object] | None]]


class Connection:
    """One HTTP/1.1 connection that is kept."""

    def __init__(self, server: Server) -> None:
        self._host, self._token = urlsplit(server.url).netloc, server.token
        self._port = server.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, method: str, path: str, body: dict[str, object] | None, accept: str = "*/*") -> int:
        """Send one request, read its answer; gives the status."""
        reader, writer = await self._open()
        await self._write(writer, method, path, body, accept)
        status, length = await self._head(reader)
        await reader.readexactly(length)
        return status

    async def follow(self, path: str) -> int:
        """Read an event stream to its end; gives the number of bytes."""
        reader, writer = await self._open()
        await self._write(writer, "GET", path, None, "text/event-stream")
        await self._head(reader)
        size = 0
        while chunk := await reader.read(1 << 16):
            size += len(chunk)
        return size

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    async def _write(
        self, writer: asyncio.StreamWriter, method: str, path: str, body: dict[str, object] | None, accept: str
    ) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Authorization: Bearer {self._token}",
                f"Accept: {accept}", f"Content-Length: {len(data)}"]  # fmt: skip
        if body is not None:
            head += ["Content-Type: application/json", f"Idempotency-Key: {uuid4().hex}"]
        writer.write("\r\n".join([*head, "", ""]).encode() + data)
        await writer.drain()

    @staticmethod
    async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next((int(line.partition(":")[2]) for line in head if line.startswith("content-length:")), 0)
        return int(head[0].split()[1]), length


async def load(server: Server, requests: Sequence[Request], rate: float, seconds: float) -> dict[str, Latencies]:
    """Send the requests in turn, ``rate`` a second in all, each when it is due, whether earlier ones are back or not.

    A latency counts from when its request was due, so that a server that stalls cannot hide it by slowing the load.
    """
    found = {request.name: Latencies() for request in requests}
    free: asyncio.Queue[Connection] = asyncio.Queue()
    connections = [Connection(server) for _ in range(CONNECTIONS)]
    for connection in connections:
        free.put_nowait(connection)

    async def one(request: Request, due: float) -> None:
        connection = await free.get()
        try:
            status = await connection.send(*request.make())
            found[request.name].errors += not 200 <= status < 300
        except (OSError, asyncio.IncompleteReadError):
            connection.close()
            found[request.name].errors += 1
        finally:
            free.put_nowait(connection)
        found[request.name].seconds.append(time.perf_counter() - due)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(one(requests[number % len(requests)], due))
    for connection in connections:
        connection.close()
    return found


async def watchers(server: Server, job: str, number: int, seconds: float) -> tuple[float, float]:
    """The server's share of a core without and with so many watchers of one running job."""
    without = await _share(server, seconds)
    connections = [Connection(server) for _ in range(number)]
    tasks = [asyncio.create_task(c.follow(f"/api/v1/jobs/{job}/events")) for c in connections]
    await asyncio.sleep(2.0)  # they connect and catch up
    with_them = await _share(server, seconds)
    for task, connection in zip(tasks, connections, strict=True):
        task.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await task
        connection.close()
    return without, with_them


async def _share(server: Server, seconds: float) -> float:
    began, used = time.monotonic(), server.cpu_seconds()
    await asyncio.sleep(seconds)
    return (server.cpu_seconds() - used) / (time.monotonic() - began)
