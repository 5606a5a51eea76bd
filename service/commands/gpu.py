"""``fusetune tune`` for GPUs, here or (``--build-only``) elsewhere, and ``fusetune measure`` where one is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from db.store import Store, default_url
from service.commands.gpu_roof import HERE, at_first, known
from service.commands.gpu_trials import GpuTrials
from service.commands.live import Live
from service.commands.spec import job_spec
from service.dispatch.waiting import waiting
from service.rules import check_cores
from tuner.errors import DeviceError, UserError
from tuner.types import Device, JobSpec

if TYPE_CHECKING:
    from tuner.measure.cluster.place import OnCluster

HEAVIEST = 15  # kernels in the closing table
_MEANINGLESS = ("plan", "memory_limit", "input")  # for GPUs


def tune(args: argparse.Namespace) -> int:
    """``fusetune tune``, with ``--build-only`` or without."""
    if args.build_only:
        return build_only(args)
    if args.results:
        raise UserError("--results means nothing without --build-only.", code="bad-option")
    if args.device == HERE and args.cluster is None:
        return here(args)
    from service.commands import tune as measuring

    return measuring.tune(args)


def build_only(args: argparse.Namespace) -> int:
    """The command: explore, rank, check and compile; nothing is measured.

    Raises UserError for devices that are no GPUs and for options that do not apply.
    """
    from tuner.gpu.spec import CUDA
    from tuner.measure.device import devices

    device = devices(args.device)
    if device.kind != CUDA:
        raise UserError(f"--build-only is for GPUs, and {device.name} is none.", code="not-a-gpu")
    if args.cluster is not None:
        raise UserError("--cluster means nothing with --build-only.", code="bad-option")
    spec = _spec(args, device, "with --build-only")

    from tuner.gpu.build_only import BuildOnly
    from tuner.measure.device import toolchain

    out = args.out or Path(f"{args.model.stem}.{device.name}.fusetune")
    console = Console(stderr=args.json)
    with Store.open(args.db or default_url()) as store, Live(console, spec.budget) as live:
        kept = GpuTrials(store, device, toolchain())
        job = BuildOnly(spec, args.model, device, out, args.results, live, kept, known(store, device))
        live.stop_on_interrupt(job.stop, "what there is")
        report = job.run()
    if args.json:
        print(json.dumps(report))
        return 0
    _show(console, report)
    note = f"Artifact {out}/   report {out / 'report.json'}   candidates to measure {out / 'bundle'}/"
    console.print(note, highlight=False, soft_wrap=True)
    return 0


def here(args: argparse.Namespace) -> int:
    """The command for the GPU of this machine. Raises DeviceError for one that is absent or cannot be used."""
    from tuner.measure.device import devices

    return on_gpu(args, devices(HERE))


def on_gpu(args: argparse.Namespace, device: Device, place: OnCluster | None = None) -> int:
    """The command for a GPU of this machine or of a cluster: rounds of building here and measuring there.

    Raises UserError for options that do not apply.
    """
    from tuner.measure.device import toolchain

    spec = _spec(args, device, f"on {device.name}")

    from tuner.gpu.rounds import Rounds

    out = args.out or Path(f"{args.model.stem}.{device.name}.fusetune")
    console = Console(stderr=args.json)
    with Store.open(args.db or default_url()) as store, Live(console, spec.budget) as live:
        job = Rounds(spec, args.model, device, out, live, GpuTrials(store, device, toolchain()))
        if place is not None:
            job.measure, job.time = place.gpu.measure, place.gpu.time
            place.waiting = waiting(lambda said: console.print(said, highlight=False))
        job.roof = at_first(store, device, spec.budget, job.measure)
        live.stop_on_interrupt(job.stop, "what there is")
        report = job.run()
    if args.json:
        print(json.dumps(report))
        return 0
    _show(console, report)
    note = f"Artifact {out}/   report {out / 'report.json'}   {report['latency_ms']['tuned']['median']:.3f} ms"
    console.print(note, highlight=False, soft_wrap=True)
    return 0


def _spec(args: argparse.Namespace, device: Device, where: str) -> JobSpec:
    """The job for a GPU. Raises UserError for options that do not apply to one."""
    from tuner.gpu.precision import FP32, check_precision
    from tuner.gpu.spec import spec_of

    given = [name for name in _MEANINGLESS if getattr(args, name)]
    if args.strategy != JobSpec.strategy:
        given.append("strategy")
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} means nothing {where}.", code="bad-option")
    check_cores(args.cores, device)
    check_precision(args.precision, spec_of(device))
    asked = argparse.Namespace(**vars(args) | {"precision": FP32})  # what is measured on CPUs knows others
    return replace(job_spec(asked), strategy="metaschedule", precision=args.precision)


def measure(args: argparse.Namespace) -> int:
    """The command: run a bundle on the GPU that is here, with the TVM runtime alone, and write its results.

    Raises UserError when the bundle cannot be read, DeviceError when it cannot be measured here.
    """
    from tuner.gpu.bundle_run import Unusable, read_bundle
    from tuner.gpu.bundle_run import measure as run
    from tuner.gpu.detect import detect

    console = Console(stderr=args.json)
    try:
        arch = read_bundle(args.bundle)["arch"]
    except Unusable as error:
        raise UserError(str(error), code="no-bundle") from error
    if arch != "cpu":
        detect()  # its errors name what is missing
    try:
        results = run(args.bundle, args.limit, lambda text: console.print(text, highlight=False))
    except Unusable as error:
        raise DeviceError(str(error), code="not-measurable") from error
    out = args.out or args.bundle / "results.json"
    try:
        out.write_text(json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.", code="bad-output") from error
    if args.json:
        print(json.dumps(results))
    else:
        failed = sum(each["failure"] is not None for each in results["results"])
        console.print(f"{len(results['results'])} candidates measured, {failed} of them failed: {out}", highlight=False)
    return 0


def _show(console: Console, report: Mapping[str, Any]) -> None:
    device, ranking = report["device"], report["ranking"]
    known = f"; {ranking['learned_from']} measured candidates correct the ranking" if ranking["learned_from"] else ""
    where = "measured here" if report["measured"] else "not measured here"
    table = Table(title=f"{report['model']['name']} for {device['name']} ({device['model']}), {where}")
    for column in ("kernel", "calls", "from", "blocks x threads", "registers", "expected us", "measured us"):
        table.add_column(column, justify="left" if column in {"kernel", "from"} else "right")
    heaviest = sorted(report["blocks"], key=lambda b: -b["calls"] * b["predicted_ms"])
    for block in heaviest[:HEAVIEST]:
        measured = "-" if block["ms"] is None else f"{block['ms'] * 1e3:.1f}"
        table.add_row(
            block["function"], str(block["calls"]), block["template"], f"{block['blocks']} x {block['threads']}",
            str(block["registers"]), f"{block['predicted_ms'] * 1e3:.1f}", measured,
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{ranking['explored']} candidates explored, {ranking['refused']} refused unbuilt, {ranking['bundled']} in the "
        f"bundle{known}; checked on the CPU: largest relative error {report['verification']['max_rel_error']:.2g}.",
        highlight=False,
    )
    for name, why in report["unexplored"].items():
        console.print(f"No design space for {name}, which keeps its default schedule: {why}", highlight=False)
