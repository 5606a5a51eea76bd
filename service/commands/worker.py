"""``fusetune worker``: this machine joins a cluster, and builds and measures there for whoever tunes."""

from __future__ import annotations

import argparse
import os
import re
import signal
from dataclasses import replace
from types import FrameType

from rich.console import Console

from service.commands.joining import check_extra
from tuner.errors import UserError
from tuner.types import Device

NONE, AUTO = "none", "auto"


def worker(args: argparse.Namespace) -> int:
    """The command: stays in the cluster until Ctrl-C or SIGTERM, and joins again whenever that went away."""
    from tuner.measure.cluster.joining import Joining, Offer

    check_extra()
    device = offered(args.device, args.name)
    cores = device.cores if device else len(os.sched_getaffinity(0))
    builders = cores if args.builders is None else args.builders
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    what = describe(device, builders)
    joining = Joining(
        Offer(args.cluster, device, builders, cores),
        joined=lambda: console.print(f"Joined the cluster at {args.cluster}: {what}. Ctrl-C leaves it."),
        left=lambda reason: console.print(f"Left the cluster, joining again: {reason}", markup=False),
    )  # fmt: skip

    def leave(_: int, __: FrameType | None) -> None:
        joining.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    console.print(f"Joining the cluster at {args.cluster} ...")
    joining.run()
    return 0


def offered(name: str, called: str | None = None) -> Device | None:
    """The device of this machine that --device names, under the name that --name gives it.

    Raises UserError: ``unknown-device``, ``bad-option``.
    """
    if name == NONE:
        return None
    if name not in (AUTO, "cpu"):
        raise UserError(
            f"A worker offers this machine's CPU (auto, cpu) or nothing but builders (none), not {name!r}.",
            code="unknown-device",
        )  # fmt: skip
    if called is not None and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", called):
        raise UserError(f"{called!r} cannot be a device's name: letters, digits, '.', '_' and '-'.", code="bad-option")
    from tuner.measure.device import detect_cpu

    device = detect_cpu()
    return device if called is None else replace(device, name=called)


def describe(device: Device | None, builders: int) -> str:
    """What a worker brings along, in a few words; one that brings nothing is a way in for tuners on its machine."""
    builds = f"builds {builders} kernel{'s' if builders != 1 else ''} side by side" if builders else "builds nothing"
    if device is None:
        return f"no device, {builds}"
    cores = f"{device.cores} core{'s' if device.cores > 1 else ''}"
    return f"{device.name} = {device.model}, {cores} ({device.fingerprint}), {builds}"
