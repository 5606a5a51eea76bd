"""``fusetune serve``: one process with the API, the dashboard and the dispatcher; drivers are its children."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from db.blobs import Blobs
from db.store import Store
from db.urls import parse_url
from service import logs
from service.app import create_app
from service.commands.demo import Demo
from service.commands.places import data, database
from service.commands.token import sign_in_link
from service.dispatch.dispatcher import Dispatcher
from service.settings import Settings
from tuner.errors import UserError
from tuner.types import Device

DRAIN_SECONDS = 3  # how long requests under way may take to end when the server stops
BACKLOG = 1024  # connections that wait to be accepted
INTERRUPTED = 130
_log = logging.getLogger("service.serve")


def serve(args: argparse.Namespace) -> int:
    """The command. Returns 0 after SIGINT or SIGTERM; with --once whether the demo's job succeeded."""
    settings = settings_of(args)
    if args.demo is not None and not args.demo.is_file():
        raise UserError(f"The model {args.demo} cannot be read: no such file.", code="no-model")
    if args.once and args.demo is None:
        raise UserError("--once ends the server after a demo's job; name its model with --demo.", code="bad-option")
    with closing(listen(settings.host, settings.port)) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        logs.set_up(json_lines=settings.log_json)
        with Store.open(settings.db) as store:
            return _serve(settings, store, listener, args)


def settings_of(args: argparse.Namespace) -> Settings:
    """What the command line says; the defaults are those of Settings. Raises UserError for what cannot be."""
    given = {
        "host": args.host, "port": args.port, "root_path": args.root_path, "rate": args.rate,
        "max_upload": args.max_upload, "quota": args.quota, "retention_days": args.retention_days,
        "jobs_per_device": args.jobs_per_device,
    }  # fmt: skip
    if args.jobs_per_device == 0:
        raise UserError("At least one job runs per device; --no-dispatch runs none.", code="bad-option")
    return Settings(
        db=database(args),
        data=data(args),
        auth=not args.no_auth,
        secure=args.https,
        trust_proxy=args.trust_proxy,
        dispatch=not args.no_dispatch,
        allowed_hosts=tuple(args.allowed_host),
        log_json=args.log_json,
        **{name: value for name, value in given.items() if value is not None},
    )


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
    listener = socket.socket(family, socket.SOCK_STREAM)
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


def _serve(settings: Settings, store: Store, listener: socket.socket, args: argparse.Namespace) -> int:
    console = Console(stderr=settings.log_json)
    devices = _local_devices() if settings.dispatch else {}
    blobs = Blobs(settings.blobs, store.database, settings.quota)
    dispatcher = Dispatcher(store, blobs, settings, devices) if devices else None
    app = create_app(settings, store, blobs, dispatcher)
    server = Server(app)
    demo = None
    if args.demo is not None:
        demo = Demo(args.demo, args.seconds, app.state.context, settings.data, console)

    def ready() -> None:
        _greet(console, settings, store, devices)
        if demo is not None:
            demo.start(then=server.stop if args.once else None)

    server.ready = ready
    with _signals(server):
        try:
            if dispatcher is not None:
                dispatcher.start()
            server.run(sockets=[listener])
        finally:
            if demo is not None:
                demo.leave()
            if dispatcher is not None:
                dispatcher.stop()
    _log.info("stopped")
    if demo is None or not args.once:
        return 0
    return INTERRUPTED if demo.succeeded is None else 0 if demo.succeeded else 1


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
        self._fastapi.state.context.hub.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # ours stay: uvicorn would raise them again at the end, and the exit code would not be 0


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """SIGINT and SIGTERM end the server in order; the second one ends it at once, and the drivers with it."""

    def handle(number: int, _: FrameType | None) -> None:
        if server.should_exit:
            os._exit(INTERRUPTED)
        server.stop()
        said = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        os.write(2, f"\nStopping: running jobs go back to the queue{said}.\n".encode())

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _greet(console: Console, settings: Settings, store: Store, devices: dict[str, Device]) -> None:
    """Say where the server is and how to get in. The code goes to people only, never into logs."""
    measures = ", ".join(f"{name} ({d.model}, {d.cores} cores)" for name, d in devices.items()) or "nothing here"
    database = parse_url(settings.db).render_as_string(hide_password=True)
    _log.info("listening on %s; database %s; measures on %s", settings.url, database, measures)
    if settings.log_json and not sys.stdout.isatty():
        return
    lines = [f"fusetune {_version()} is ready on {settings.url}/ and measures on {measures}."]
    if settings.auth:
        lines += [f"Sign in: {sign_in_link(store, settings.url)}", "(good once, for an hour; for another one: "
                  f"fusetune token login{_same_place(settings)})"]  # fmt: skip
    else:
        lines.append("Everybody on this machine may use it: it runs without authentication.")
    lines.append("Ctrl-C stops it.")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _same_place(settings: Settings) -> str:
    """Options by which another command finds this server and its database."""
    options = "" if settings.url == Settings().url else f" --url {settings.url}"
    if parse_url(settings.db) == parse_url(Settings().db):
        return options
    if parse_url(settings.db).database == str(settings.data / "fusetune.db"):
        return f"{options} --data {os.path.relpath(settings.data)}"
    return f"{options} --db {parse_url(settings.db).render_as_string(hide_password=True)}"


def _local_devices() -> dict[str, Device]:
    """The devices of this machine by name."""
    from tuner.measure.device import devices

    return {"cpu": devices("cpu")}


def _version() -> str:
    try:
        return version("fusetune")
    except PackageNotFoundError:
        return ""
