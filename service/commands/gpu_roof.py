"""``fusetune calibrate --device gpu``: what the GPU of this machine can do at most, measured, stored and shown."""

from __future__ import annotations

import argparse
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from db.store import Store, default_url
from tuner.errors import FusetuneError, UserError
from tuner.types import Budget, Device

if TYPE_CHECKING:
    from tuner.gpu.roof import GpuRoof, Measure

log = logging.getLogger(__name__)

HERE = "gpu"  # the device that stands for the GPU of this machine
_NAMES = {"fp32": "float32", "fp16": "float16 on tensor cores", "tf32": "tf32 on tensor cores",
          "bandwidth": "device memory"}  # fmt: skip


def calibrate(args: argparse.Namespace, device: Device) -> int:
    """The command. What an earlier run measured stands unless ``--fresh``.

    Raises UserError for a GPU known by its data sheet alone, DeviceError where the one here measures nothing.
    """
    if device.name != HERE:
        raise UserError(
            f"{device.name} can be built for here, but not measured.", code="not-this-machine",
            hint="Where it is: fusetune calibrate --device gpu.",
        )  # fmt: skip
    if args.out is not None:
        raise UserError("--out means nothing on a GPU.", code="bad-option")
    console = Console(stderr=args.json)
    with Store.open(args.db or default_url()) as store:
        roof = None if args.fresh else known(store, device)
        if roof is None:
            console.print("Measuring float32, tensor cores and device memory.", highlight=False)
            roof = measured(store, device)
    if args.json:
        print(json.dumps({"device": device.to_json(), "figures": compared(device, roof)}))
    else:
        console.print(table(device, roof))
    return 0


def at_first(store: Store, device: Device, budget: Budget, measure: Measure | None = None) -> GpuRoof | None:
    """The roof of the GPU that a job is about to measure on: what is known, else measured now.

    Not for a job without trials, which ranks nothing. None where it fails: it is good to know, not needed.
    """
    found = known(store, device)
    if found is not None or budget.trials == 0:
        return found
    try:
        return measured(store, device, measure)
    except FusetuneError as error:
        log.warning("The GPU's data sheet stands for its roof: %s", error)
        return None


def measured(store: Store, device: Device, measure: Measure | None = None) -> GpuRoof:
    """Measure the GPU and keep the figures. Raises what tuner.gpu.roof and find_nvcc raise.

    ``measure`` runs a bundle where the GPU is, as ``tuner.gpu.bundle_run.measure`` does here.
    """
    from tuner.gpu import roof as engine
    from tuner.gpu.nvcc import find_nvcc
    from tuner.measure.device import toolchain

    compiler = find_nvcc()
    compiler.require(device.mcpu)
    began = time.monotonic()
    found = engine.measure_gpu_roof(device, compiler, *([] if measure is None else [measure]))
    store.devices.put(device)
    store.devices.measured(device.fingerprint, peak_flops=found.fp32, bandwidth=found.bandwidth)
    store.calibrations.put(
        device.fingerprint, toolchain(), [found.to_json()], seconds=time.monotonic() - began, protocol=engine.PROTOCOL
    )
    return found


def known(store: Store, device: Device) -> GpuRoof | None:
    """What was measured of the GPU with this fingerprint, if anything."""
    from tuner.gpu.roof import PROTOCOL, GpuRoof
    from tuner.measure.device import toolchain

    kept = store.calibrations.get(device.fingerprint, toolchain(), PROTOCOL)
    return None if kept is None else GpuRoof.from_json(kept.samples[0])


def compared(device: Device, roof: GpuRoof | None) -> dict[str, dict[str, float | None]]:
    """Each figure as measured (null where nobody did) and by the data sheet; FLOP/s, bandwidth in B/s."""
    from tuner.gpu.roof import published
    from tuner.gpu.spec import spec_of

    sheet = published(spec_of(device)).to_json()
    found: dict[str, Any] = {} if roof is None else roof.to_json()
    return {name: {"measured": found.get(name), "data_sheet": sheet[name]} for name in _NAMES}


def table(device: Device, roof: GpuRoof | None) -> Table:
    """The same for people."""
    shown = Table(title=f"{device.name}: {device.model}, {device.cores} SMs")
    for column in ("", "measured", "data sheet"):
        shown.add_column(column, justify="right" if column else "left")
    for name, values in compared(device, roof).items():
        unit, scale = ("GB/s", 1e9) if name == "bandwidth" else ("TFLOP/s", 1e12)
        texts = ("-" if value is None else f"{value / scale:.1f} {unit}" for value in values.values())
        shown.add_row(_NAMES[name], *texts)
    return shown
