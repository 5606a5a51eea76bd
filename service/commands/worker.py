"""``fusetune worker``: this machine joins a cluster, and builds and measures there for whoever tunes."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import threading
from dataclasses import replace
from types import FrameType

from rich.console import Console

from service.commands.joining import check_extra
from tuner.errors import DeviceError, UserError
from tuner.types import Device

NONE, AUTO, CPU, GPU = "none", "auto", "cpu", "gpu"
_log = logging.getLogger(__name__)


def worker(args: argparse.Namespace) -> int:
    """The command: stays in the cluster until Ctrl-C or SIGTERM, and joins again whenever that went away."""
    from tuner.measure.cluster.joining import Joining, Offer

    check_extra()
    devices = offered(args.device, args.name)
    cores = next((d.cores for d in devices if d.kind == "cpu"), len(os.sched_getaffinity(0)))
    builders = cores if args.builders is None else args.builders
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def joining(device: Device | None, builders: int) -> Joining:
        what = describe(device, builders)
        return Joining(
            Offer(args.cluster, device, builders, cores),
            joined=lambda: console.print(f"Joined the cluster at {args.cluster}: {what}. Ctrl-C leaves it."),
            left=lambda reason: console.print(f"Left the cluster, joining again: {reason}", markup=False),
        )  # fmt: skip

    # A member per device: each measures by itself, and the first one builds, while it does not measure.
    members = [joining(device, 0 if n else builders) for n, device in enumerate(devices)] or [joining(None, builders)]

    def leave(_: int, __: FrameType | None) -> None:
        for each in members:
            each.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    console.print(f"Joining the cluster at {args.cluster} ...")
    threads = [threading.Thread(target=each.run) for each in members[1:]]
    for thread in threads:
        thread.start()
    try:
        members[0].run()
    finally:
        leave(0, None)
        for thread in threads:
            thread.join()
    return 0


def offered(name: str, called: str | None = None) -> list[Device]:
    """The devices of this machine that --device names, under the name that --name gives: of several to the first.

    Raises UserError: ``unknown-device``, ``bad-option``; DeviceError for a GPU that is asked for and cannot be used.
    """
    if name not in (NONE, AUTO, CPU, GPU):
        raise UserError(
            f"A worker offers what this machine has (auto), its CPU (cpu) or GPU (gpu) alone, or nothing but builders "
            f"(none), not {name!r}.",
            code="unknown-device",
        )  # fmt: skip
    if called is not None and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,35}", called):
        raise UserError(f"{called!r} cannot be a device's name: letters, digits, '.', '_' and '-'.", code="bad-option")
    from tuner.measure.device import detect_cpu

    found = [detect_cpu()] if name in (AUTO, CPU) else []
    found += _gpu(needed=name == GPU) if name in (AUTO, GPU) else []
    if called is None:
        return found
    names = [called, *(f"{called}-{device.name}" for device in found[1:])]
    return [replace(device, name=as_) for device, as_ in zip(found, names, strict=False)]


def _gpu(needed: bool) -> list[Device]:
    """The GPU that is here; where it is not ``needed`` and cannot be used, logs say why."""
    from tuner.gpu.detect import detect

    try:
        return [detect().device()]
    except DeviceError as error:
        if needed:
            raise
        if error.code != "no-gpu":
            _log.warning("the GPU here is not offered: %s", error)
        return []


def describe(device: Device | None, builders: int) -> str:
    """What a worker brings along, in a few words; one that brings nothing is a way in for tuners on its machine."""
    builds = f"builds {builders} kernel{'s' if builders != 1 else ''} side by side" if builders else "builds nothing"
    if device is None:
        return f"no device, {builds}"
    unit = "core" if device.kind == "cpu" else "SM"
    cores = f"{device.cores} {unit}{'s' if device.cores > 1 else ''}"
    return f"{device.name} = {device.model}, {cores} ({device.fingerprint}), {builds}"
