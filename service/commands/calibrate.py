"""``fusetune calibrate``: measure synthetic blocks on a device, teach its cost models, say how good they are."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from db.store import Store, default_url
from service.commands.pretraining import figures, pretrain
from tuner.errors import UserError
from tuner.types import Device

if TYPE_CHECKING:
    from tuner.measure.runner import Runner

CUDA = "cuda"  # Device.kind of GPUs, of which other things are measured


def calibrate(args: argparse.Namespace) -> int:
    """The command. Ctrl-C ends it with what was measured; a second run goes on from there."""
    from tuner.measure.device import devices

    device = devices(args.device)
    if device.kind == CUDA:
        from service.commands import gpu_roof

        return gpu_roof.calibrate(args, device)
    _check_measurable(device)
    _check_out(args.out)
    console = Console(stderr=args.json)
    with Store.open(args.db or default_url()) as store:
        facts = _calibrate(args, store, device, console)
    if args.out is not None:
        from service.exports.calibration import write_calibration

        written = write_calibration(args.out, facts)
        console.print(f"Wrote {', '.join(p.name for p in written)} to {args.out}/", highlight=False, soft_wrap=True)
    if args.json:
        print(json.dumps(facts))
    else:
        _show(console, facts)
    return 0


def _calibrate(args: argparse.Namespace, store: Store, device: Device, console: Console) -> dict[str, Any]:
    from tuner.search import calibration as engine

    store.devices.put(device)
    if not device.simulated:
        _measure_roof(store, device, console)
    where = engine.place(device)
    before = None if args.fresh else store.calibrations.get(device.fingerprint, where)
    samples = [engine.Sample.from_json(s) for s in before.samples] if before else []
    spent = before.seconds if before else 0.0
    kernels = 0 if device.simulated else args.kernels
    console.print(f"{len(samples)} blocks are known." if samples else f"Calibrating {device.name}: {device.model}.",
                  highlight=False)  # fmt: skip
    began = time.monotonic()
    try:
        with _runner(device, args.seed) as runner:
            _measure(args, store, device, samples, spent, console, runner)
            if kernels:
                left = None if args.seconds is None else max(0.0, args.seconds - (time.monotonic() - began))
                pretrain(store, device, runner, kernels, args.fresh, left, console)
    except KeyboardInterrupt:
        console.print("[yellow]Stopped; going on with what was measured.[/]")
    spent += time.monotonic() - began
    if not any(s.seconds is not None for s in samples):
        raise UserError(
            f"Nothing could be measured on {device.name}.", code="no-samples", hint="Give it more --seconds."
        )
    machine = engine.known_machine_of(store, device)
    model = engine.train(samples, device, machine, args.seed)
    checked = engine.examine(samples, device, machine)
    quality = None if checked is None else checked.quality.to_json()
    store.calibrations.put(
        device.fingerprint, where, [s.to_json() for s in samples], seconds=spent, model=model.to_json(),
        quality=quality,
    )  # fmt: skip
    return {
        "device": device.to_json(), "toolchain": where, "machine": machine.to_json(), "seconds": round(spent, 3),
        "samples": len(samples), "failed": sum(s.seconds is None for s in samples), "quality": quality,
        "roofline": model.roofline.parameters, "points": [] if checked is None else engine.points(samples, checked),
        "knobs": figures(store, device, kernels) if kernels else None,
    }  # fmt: skip


def _measure(
    args: argparse.Namespace, store: Store, device: Device, samples: list[Any], spent: float, console: Console,
    runner: Runner,
) -> None:  # fmt: skip
    """Measure what of the design is not known yet, storing as it goes; ``samples`` grows.

    Where knobs are to be tried, too, half of the time is left for that.
    """
    from tuner.search import calibration as engine

    known = {s.design for s in samples}
    wanted = [pair for pair in engine.designed(device, args.blocks) if pair[0] not in known]
    began = saved = time.monotonic()
    share = 1.0 if device.simulated or not args.kernels else BLOCKS_SHARE
    where = engine.place(device)

    def save() -> None:
        store.calibrations.put(
            device.fingerprint, where, [s.to_json() for s in samples], seconds=spent + time.monotonic() - began
        )

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("measuring blocks", total=len(wanted))
        try:
            for sample in engine.measure(wanted, runner):
                samples.append(sample)
                bar.advance(task)
                if time.monotonic() - saved > SAVE_SECONDS:
                    saved = time.monotonic()
                    save()
                if args.seconds is not None and time.monotonic() - began > share * args.seconds:
                    break
        finally:
            save()


SAVE_SECONDS = 2.0  # what a kill may cost
BLOCKS_SHARE = 0.5  # of the time for blocks, where knobs are tried, too


def _runner(device: Device, seed: int) -> Any:
    if device.simulated:
        from tuner.simulate.runner import runner_of

        return runner_of(device, seed)
    from tuner.measure.local import LocalRunner
    from tuner.measure.options import MeasureOptions

    return LocalRunner(device, MeasureOptions(seed=seed))


def _check_measurable(device: Device) -> None:
    from tuner.measure.device import detect_cpu

    if not device.simulated and device.fingerprint != detect_cpu().fingerprint:
        raise UserError(
            f"{device.name} can be built for here, but not measured.", code="not-this-machine",
            hint="Calibrate on such a machine, or use sim:" + device.name + ".",
        )  # fmt: skip


def _check_out(out: Path | None) -> None:
    """Before anything is measured: ``out`` is a folder that can be written, new, empty or an earlier calibration's."""
    if out is None:
        return
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "calibration.json").exists())):
        raise UserError(f"{out} is no empty folder and no earlier calibration's.", code="bad-output")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"The folder {out} cannot be written: {error.strerror}.", code="bad-output") from error


def _measure_roof(store: Store, device: Device, console: Console) -> None:
    """The peak and the bandwidth, unless they are known."""
    from tuner.measure.roof import measure_roof

    known = store.devices.get(device.fingerprint)
    if known is not None and known.peak_flops and known.bandwidth:
        return
    console.print("Measuring peak and bandwidth.")
    roof = measure_roof(device)
    store.devices.measured(device.fingerprint, peak_flops=roof.flops, bandwidth=roof.bandwidth)


def _show(console: Console, facts: dict[str, Any]) -> None:
    name, simulated = facts["device"]["name"], facts["device"]["simulated"]
    table = Table(title=f"Cost model of {name}" + (" (simulated)" if simulated else ""))
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("blocks measured", str(facts["samples"]))
    if facts["failed"]:
        table.add_row("of these failed", str(facts["failed"]))
    quality = facts["quality"]
    if quality is None:
        table.add_row("quality", "too few blocks to say")
    else:
        for key, text in _FIGURES:
            if quality[key] is not None:
                table.add_row(text, f"{quality[key]:.3f}" if key == "rank_correlation" else f"{quality[key]:.1%}")
        for k, share in quality["recall"].items():
            if share is not None:
                table.add_row(f"best {k} found among the best {k}", f"{share:.0%}")
    if facts["knobs"] is not None:
        _add_knobs(table, facts["knobs"])
    console.print(table)
    console.print("Figures are of workloads that the model had not seen.", highlight=False)


def _add_knobs(table: Table, knobs: dict[str, Any]) -> None:
    quality = knobs["quality"]
    table.add_section()
    table.add_row("kernels whose knobs were tried", str(knobs["kernels"]))
    table.add_row("trials", str(knobs["trials"]))
    if knobs["failed"]:
        table.add_row("of these failed", str(knobs["failed"]))
    if quality["reason"] is not None:
        table.add_row("quality", "too few to say")
        return
    table.add_row("median error", f"{quality['median_error']:.1%}")
    for key, text in _RECALL:
        if quality[key] is not None:
            table.add_row(text, f"{quality[key]:.0%}")


_RECALL = (("top1", "best knobs are those predicted best"), ("top8", "best knobs among the 8 predicted best"))
_FIGURES = (
    ("median_error", "median error"),
    ("p90_error", "90% of errors below"),
    ("rank_correlation", "rank correlation of rates"),
    ("within_1_std", "errors within one deviation (68%)"),
    ("within_2_std", "errors within two (95%)"),
)
