"""Commands that only show things: zoo, devices, records."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tuner.errors import DeviceError, UserError

if TYPE_CHECKING:
    from tuner.gpu.detect import Gpu
    from tuner.gpu.roof import GpuRoof


def zoo(args: argparse.Namespace) -> int:
    """``fusetune zoo``: list the models, or write them with seeded random weights."""
    from tuner.graph import zoo as models

    console = Console()
    if not args.names:
        table = Table(title="Models that come along (real topologies, seeded random weights)")
        table.add_column("name")
        table.add_column("what it is")
        for name in models.names():
            table.add_row(name, models.describe(name))
        console.print(table)
        console.print("fusetune zoo NAME ... --out DIR writes them.", highlight=False)
        return 0
    names = models.names() if args.names == ["all"] else tuple(args.names)
    if unknown := [n for n in names if n not in models.names()]:
        raise UserError(
            f"Unknown model {unknown[0]!r}.", code="unknown-model", hint=f"Known: {', '.join(models.names())}."
        )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = models.write(name, args.out / f"{name}.onnx", args.seed)
            console.print(str(path), highlight=False, soft_wrap=True)
    except OSError as error:
        raise UserError(f"{args.out} cannot be written: {error.strerror}.", code="bad-output") from error
    return 0


def devices(args: argparse.Namespace) -> int:
    """``fusetune devices``: what this machine can measure on, build for, and simulate."""
    from tuner.measure.device import detect_cpu, device_names, toolchain
    from tuner.measure.device import devices as device_called

    here = detect_cpu()
    known = [device_called(name) for name in device_names()]
    gpu = _gpu_here()
    if gpu is not None:
        known.insert(1, gpu.device())
    facts = [
        device.to_json() | {
            "toolchain": None if device.simulated else toolchain(),
            "measures": device.simulated or device.fingerprint == here.fingerprint,
        }
        for device in known
    ]  # fmt: skip
    if gpu is not None:
        facts[1]["gpu"] = _measured_of(gpu, args.db)
    if args.json:
        print(json.dumps(facts))
        return 0
    console = Console()
    table = Table(title="Devices")
    table.add_column("")
    table.add_column(here.name)
    for key, value in _readable(facts[0]).items():
        table.add_row(key, value)
    console.print(table)
    if gpu is not None:
        _show_gpu(gpu, args.db, console)
    others = Table(title="Others")
    for column in ("--device", "model", "cores", "use"):
        others.add_column(column, justify="right" if column == "cores" else "left")
    for each in facts[1:]:
        use = "simulated" if each["simulated"] else "measured here" if each["measures"] else "built for here"
        if each["kind"] == "cuda":
            use = "--build-only here, measure there" if each["name"] != "gpu" else "tuned and measured here"
        others.add_row(each["name"], each["model"], str(each["cores"]), use)
    others.add_row("sim:PATH.json", "a machine of your own: docs/simulated-devices.md", "", "simulated")
    console.print(others)
    return 0


def _gpu_here() -> Gpu | None:
    """This machine's GPU, if it has one that can be used."""
    from tuner.gpu.detect import detect

    try:
        return detect()
    except DeviceError:
        return None


def _measured_of(gpu: Gpu, db: str | None) -> dict[str, Any]:
    """What the driver says of the GPU, and its figures as measured and by the data sheet."""
    from service.commands.gpu_roof import compared

    return {"driver": gpu.driver, "clock": gpu.clock, "memory_clock": gpu.memory_clock,
            "figures": compared(gpu.device(), _roof(gpu, db))}  # fmt: skip


def _show_gpu(gpu: Gpu, db: str | None, console: Console) -> None:
    from service.commands.gpu_roof import table

    roof = _roof(gpu, db)
    shown = table(gpu.device(), roof)
    shown.caption = (
        f"driver {gpu.driver}, {gpu.memory >> 30} GB, at most {gpu.clock / 1e6:.0f} MHz, "
        f"memory {gpu.memory_clock / 1e6:.0f} MHz"
    )
    console.print(shown)
    if roof is None:
        console.print("fusetune calibrate --device gpu measures it.", highlight=False)


def _roof(gpu: Gpu, db: str | None) -> GpuRoof | None:
    from db.store import Store, default_url
    from service.commands.gpu_roof import known

    with Store.open(db or default_url()) as store:
        return known(store, gpu.device())


def _readable(facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        "model": str(facts["model"]),
        "compiled for": str(facts["mcpu"]),
        "features": " ".join(facts["features"]),
        "cores": str(facts["cores"]),
        "vectors": f"{facts['registers']} registers of {facts['lanes']} float32",
        "caches": f"{facts['l1'] >> 10} kB, {facts['l2'] >> 10} kB a core, {facts['l3'] >> 20} MB shared",
        "memory": f"{facts['memory'] >> 30} GB",
        "fingerprint": str(facts["fingerprint"]),
        "toolchain": str(facts["toolchain"]),
    }


def records(args: argparse.Namespace) -> int:
    """``fusetune records``: the best known kernels."""
    from db.store import Store, default_url

    with Store.open(args.db or default_url()) as store:
        found = store.records.search(workload_hash=args.workload, device=args.device, limit=args.limit)
    rows = [_record(f.record) for f in found.items]
    if args.json:
        print(json.dumps(rows))
        return 0
    table = Table(title=f"Best known kernels ({len(rows)})")
    for column in ("workload", "layers", "template", "knobs", "cores", "us", "samples", "device"):
        table.add_column(column, justify="right" if column in {"cores", "us", "samples"} else "left")
    for row in rows:
        table.add_row(
            row["workload"][:12], " ".join(row["layers"]), row["template"],
            " ".join(f"{k}={v}" for k, v in row["knobs"].items()), str(row["cores"]), f"{row['seconds'] * 1e6:.1f}",
            str(row["samples"]), row["device"],
        )  # fmt: skip
    Console().print(table)
    return 0


def _record(record: Any) -> dict[str, Any]:
    c = record.candidate
    return {
        "workload": c.workload_hash,
        "layers": [layer["op"] for layer in c.workload["layers"]],
        "layouts": dict(c.layouts),
        "template": c.template,
        "template_version": c.template_version,
        "knobs": dict(c.knobs),
        "cores": c.cores,
        "precision": c.precision,
        "residency": c.residency,
        "seconds": record.seconds,
        "samples": record.samples,
        "device": record.device,
        "toolchain": record.toolchain,
        "protocol": record.protocol,
    }
