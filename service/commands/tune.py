"""``fusetune tune``: one job in this process, with live progress and a closing table."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from db.store import Store, default_url
from service.commands.joining import check_extra
from service.commands.live import Live, show
from service.commands.spec import job_spec
from service.dispatch.drive import Drive
from service.dispatch.inline import run_here
from service.dispatch.jobstore import JobStore
from service.dispatch.waiting import waiter
from service.jobs import answer
from service.rules import check_cores
from tuner.errors import UserError
from tuner.events import Progress
from tuner.types import Device

if TYPE_CHECKING:
    from tuner.measure.cluster.place import OnCluster


def tune(args: argparse.Namespace) -> int:
    """The command: build the JobSpec, run it, print what came out."""
    from tuner.measure.device import detect_cpu, devices
    from tuner.measure.named import check_measurable

    if args.cluster is not None:
        return _tune_there(args)
    device = devices(args.device)
    check_measurable(device, detect_cpu())
    return _tune(args, device, None)


def _tune_there(args: argparse.Namespace) -> int:
    """Tune for a device of a cluster; those that it offers are noted in the database."""
    check_extra()
    from tuner.measure.cluster.place import OnCluster, choose, offered

    devices = offered(args.cluster)
    with Store.open(args.db or default_url()) as store:
        for each in devices:
            store.devices.put(each)
    with closing(OnCluster(args.cluster, choose(devices, args.device))) as place:
        if place.device.kind == "cpu":
            return _tune(args, place.device, place)
        from service.commands.gpu import on_gpu

        return on_gpu(args, place.device, place)


def _tune(args: argparse.Namespace, device: Device, place: OnCluster | None) -> int:
    """Tune for a device of this machine, or of a cluster."""
    from tuner.measure.device import toolchain

    check_cores(args.cores, device)
    spec = job_spec(args)
    inputs = {name: read_array(name, path) for name, path in args.input}

    from service.dispatch.health import watched
    from tuner.clock import Clock  # the engine brings TVM: bad options are refused before
    from tuner.output import check_writable
    from tuner.plan.describe import describe
    from tuner.search.experience import load_experience
    from tuner.search.samples import load_samples
    from tuner.session import Session
    from tuner.simulated import SimulatedSession

    out = args.out or Path(f"{args.model.stem}.fusetune")
    check_writable(out)
    console = Console(stderr=args.json)
    with Store.open(args.db or default_url()) as store:
        known = not spec.fresh and answer(store, spec, device, toolchain()) is not None
        clock = Clock()
        with Live(console, spec.budget) as live:

            def make(trials: JobStore, drive: Drive) -> Session | SimulatedSession:
                def watch(progress: Progress) -> None:
                    live(progress)
                    drive.watch(progress, session.curve.points)

                session: Session | SimulatedSession
                if device.simulated:
                    session = SimulatedSession(
                        spec, args.model, device, out, trials, watch, load_samples(store, device), clock=clock,
                        turn=drive.turn,
                    )  # fmt: skip
                else:
                    session = Session(
                        spec, args.model, device, out, trials, watch, inputs, baselines=not args.no_baselines,
                        search=not known, clock=clock, turn=drive.turn, samples=load_samples(store, device),
                        experience=load_experience(store, device),
                    )  # fmt: skip
                    if place is not None:
                        session.runner, session.models = place.runner, place.models
                        place.waiting = waiter(drive, clock, console.print)
                    session.runner = watched(session.runner, store, toolchain())
                live.stop_on_interrupt(session.stop, "the best found so far")
                return session

            report = run_here(store, spec, device, toolchain(), args.model.stem, make, lambda: clock.seconds, describe)
    if args.json:
        print(json.dumps(report))
    else:
        show(console, report)
        what = "Plan" if device.simulated else "Artifact"
        log = out / ("trials.jsonl" if device.simulated else "tuning_log/")
        console.print(f"{what} {out}/   report {out / 'report.json'}   log {log}", highlight=False, soft_wrap=True)
    return 0


def read_array(name: str, path: Path) -> np.ndarray:
    """The array of one ``--input``. Raises UserError; nothing is ever unpickled."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"Input {name!r}: {path} is no readable .npy file: {error}.", code="bad-input") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"Input {name!r}: {path} holds several arrays; give one .npy file.", code="bad-input")
    return array
