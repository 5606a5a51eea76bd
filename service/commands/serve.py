"""``fusetune serve``: one process with the API, the dashboard and the dispatcher; drivers are its children."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace

from rich.console import Console

from db.blobs import Blobs
from db.store import Store
from db.urls import full_url, parse_url
from service import logs
from service.app import create_app
from service.commands.demo import Demo
from service.commands.joining import check_extra
from service.commands.places import data, database
from service.commands.token import sign_in_link
from service.devices import DeviceBoard
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.housekeeping import Housekeeper
from service.dispatch.scout import Scout
from service.jobs import Jobs, Known
from service.models import ModelLibrary
from service.server import INTERRUPTED, Server, listen, signals
from service.settings import Settings
from tuner.errors import FusetuneError, UserError
from tuner.types import Device

_log = logging.getLogger("service.serve")


def serve(args: argparse.Namespace) -> int:
    """The command. Returns 0 after SIGINT or SIGTERM; with --once whether the demo's job succeeded."""
    settings = settings_of(args)
    if args.demo is not None and not args.demo.is_file():
        raise UserError(f"The model {args.demo} cannot be read: no such file.", code="no-model")
    if args.once and args.demo is None:
        raise UserError("--once ends the server after a demo's job; name its model with --demo.", code="bad-option")
    if settings.cluster is not None and args.demo is not None:
        raise UserError("The demo measures on this machine; with --cluster nothing does.", code="bad-option")
    scout = _scout(settings)  # refused before anything is opened
    with closing(listen(settings.host, settings.port)) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        logs.set_up(json_lines=settings.log_json)
        with Store.open(settings.db) as store:
            return _serve(settings, store, listener, args, scout)


def settings_of(args: argparse.Namespace) -> Settings:
    """What the command line says; the defaults are those of Settings. Raises UserError for what cannot be."""
    given = {
        "host": args.host, "port": args.port, "root_path": args.root_path, "rate": args.rate,
        "max_upload": args.max_upload, "quota": args.quota, "retention_days": args.retention_days,
        "jobs_per_device": args.jobs_per_device, "lease": args.lease,
        "cluster": args.cluster or os.environ.get("FUSETUNE_CLUSTER") or None,
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


def _scout(settings: Settings) -> Scout | None:
    """Who looks into the cluster for us. Raises UserError for an address that is none, or is not safe."""
    if settings.cluster is None:
        return None
    check_extra()
    from tuner.measure.cluster import address

    where = address.parse(settings.cluster)
    return Scout(full_url(settings.db), str(where), address.settings(where, os.environ))


def _serve(
    settings: Settings, store: Store, listener: socket.socket, args: argparse.Namespace, scout: Scout | None
) -> int:
    console = Console(stderr=settings.log_json)
    from tuner.measure.device import devices, toolchain

    here = devices("cpu")
    local = {"cpu": here, **_gpu()} if scout is None else {}
    blobs = Blobs(settings.blobs, store.database, settings.quota)
    dispatcher = Dispatcher(store, blobs, settings, local, scout) if settings.dispatch else None
    housekeeper = Housekeeper(store, blobs, settings)
    models = ModelLibrary(store, blobs, here, toolchain(), settings.max_upload)
    known = Known(local if settings.dispatch and scout is None else _Offered(store), toolchain())
    jobs = Jobs(store, models, known, dispatcher.wake if dispatcher else lambda: None)
    app = create_app(settings, store, blobs, jobs=jobs, models=models, dispatcher=dispatcher)
    server = Server(app)
    demo = None
    if args.demo is not None:
        demo = Demo(args.demo, args.seconds, app.state.context, settings.data, console)

    def ready() -> None:
        _greet(console, settings, store, local if settings.dispatch else {})
        if demo is not None:
            demo.start(then=server.stop if args.once else None)

    server.ready = ready
    with signals(server):
        try:
            housekeeper.start()
            if dispatcher is not None:
                dispatcher.start()
            server.run(sockets=[listener])
        finally:
            if demo is not None:
                demo.leave()
            housekeeper.stop()
            if dispatcher is not None:
                dispatcher.stop()
    _log.info("stopped")
    if demo is None or not args.once:
        return 0
    return INTERRUPTED if demo.succeeded is None else 0 if demo.succeeded else 1


def _gpu() -> dict[str, Device]:
    """The GPU of this machine by name, if it has one that can be used, and a compiler for it; logs say why not."""
    from tuner.gpu.nvcc import find_nvcc
    from tuner.measure.device import devices

    try:
        device = devices("gpu")
        find_nvcc().require(device.mcpu)
    except FusetuneError as error:
        if error.code != "no-gpu":
            _log.warning("the GPU here is not offered: %s", error)
        return {}
    return {device.name: device}


def _greet(console: Console, settings: Settings, store: Store, devices: Mapping[str, Device]) -> None:
    """Say where the server is and how to get in. The code goes to people only, never into logs."""
    measures = (
        f"the devices of the cluster at {settings.cluster}"
        if settings.cluster
        else ", ".join(f"{name} ({d.model}, {d.cores} cores)" for name, d in devices.items()) or "nothing here"
    )
    if settings.log_json:
        _log.info("listening on %s; database %s; measures on %s", settings.url, store.database.name, measures)
        if not console.is_terminal:
            return
    lines = [f"fusetune is ready on {settings.url}/ and measures on {measures}."]
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
        folder = min(os.path.relpath(settings.data), str(settings.data), key=len)
        return f"{options} --data {shlex.quote(folder)}"
    return f"{options} --db {shlex.quote(parse_url(settings.db).render_as_string(hide_password=True))}"


class _Offered(Mapping[str, Device]):
    """The devices that other servers on this database drive, by name, as they come and go."""

    def __init__(self, store: Store) -> None:
        self._board = DeviceBoard(store)

    def __getitem__(self, name: str) -> Device:
        try:
            known = self._board.find(name)
        except UserError as error:
            raise KeyError(name) from error
        if not known.available:
            raise KeyError(name)
        return known.device

    def __iter__(self) -> Iterator[str]:
        return iter({status.known.device.name for status in self._board.list() if status.available})

    def __len__(self) -> int:
        return len(list(iter(self)))
