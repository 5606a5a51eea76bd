"""A web server in this process: its socket, its signals, and its orderly end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from tuner.errors import UserError

DRAIN_SECONDS = 3  # how long requests under way may take to end when the server stops
BACKLOG = 1024  # connections that wait to be accepted
INTERRUPTED = 130  # exit code after the second Ctrl-C
_log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that of two servers the second one fails before it touches anything.

    Raises:
        UserError: ``port-in-use``, ``bad-host`` (not an address of this machine), ``bad-port``.
    """
    if port > 65535:
        raise UserError(f"Port {port} does not exist; the last one is 65535.", code="bad-port")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"The host {host!r} cannot be found.", code="bad-host") from error
    # Named TCP: only then does asyncio switch Nagle's algorithm off, which makes short answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"Port {port} on {host} is in use.",
                code="port-in-use",
                hint="Is a server running already? --port chooses another port.",
            ) from error
        if error.errno == errno.EACCES:
            raise UserError(f"Port {port} is for root only.", code="bad-port", hint="Use one from 1024 up.") from error
        raise UserError(f"This machine cannot listen on {host}: {error.strerror}.", code="bad-host") from error
    return listener


class Server(uvicorn.Server):
    """uvicorn in this process, with our signals and an orderly end of event streams."""

    ready: Callable[[], None]  # called once requests are answered

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app, lifespan="on", log_config=None, access_log=False, server_header=False, ws="none",
            proxy_headers=False,  # service.auth.proxy does that
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )  # fmt: skip
        super().__init__(config)
        self._fastapi = app

    def stop(self) -> None:
        """Take no more requests and end; from any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        _log.info("stopping; running jobs go back to the queue; Ctrl-C again stops at once")
        self._fastapi.state.context.hub.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # ours stay: uvicorn would raise them again at the end, and the exit code would not be 0


@contextmanager
def signals(server: Server) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the server in order; the second one ends it at once.

    Drivers hang on pipes that end with this process, so that even then none is left.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        if server.should_exit:
            os._exit(INTERRUPTED)
        server.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
