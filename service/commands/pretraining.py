"""The part of ``fusetune calibrate`` that tries knobs of synthetic kernels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from db.store import Store
from tuner.types import Candidate, Device

if TYPE_CHECKING:
    from tuner.measure.runner import Runner


def pretrain(
    store: Store, device: Device, runner: Runner, kernels: int, fresh: bool, seconds: float | None, console: Console
) -> None:
    """Measure what of the design is not known yet; every trial is stored as it comes, as one of no job.

    Args:
        kernels: synthetic layers of which a few points are tried each.
        fresh: measure what an earlier run measured, too.
        seconds: that it may take; None = as long as needed.
    """
    from tuner.plan.describe import describe
    from tuner.search.calibration import place

    wanted = _wanted(store, device, kernels, fresh)
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("trying knobs", total=len(wanted))
        for trial in runner.run(wanted):
            summary = describe(trial.candidate.workload)
            store.trials.add(None, trial, device=device.fingerprint, toolchain=place(device), summary=summary)
            bar.advance(task)
            if seconds is not None and time.monotonic() - began > seconds:
                return


def figures(store: Store, device: Device, kernels: int) -> dict[str, Any]:
    """What was measured of the design by now, and how well the knob model predicts kernels it has not seen."""
    from tuner.search.calibration import place
    from tuner.search.pretraining import candidates, examine

    keys = {c.key: c.record_key for c in candidates(device, kernels)}
    found = store.trials.of_records(list(set(keys.values())), device=device.fingerprint, toolchain=place(device))
    trials = {t.candidate.key: t for t in found if t.candidate.key in keys}
    return {
        "kernels": len({t.candidate.record_key for t in trials.values()}), "trials": len(trials),
        "failed": sum(t.failure is not None for t in trials.values()),
        "quality": examine(trials.values(), device).to_json(),
    }  # fmt: skip


def _wanted(store: Store, device: Device, kernels: int, fresh: bool) -> list[Candidate]:
    from tuner.search.calibration import place
    from tuner.search.pretraining import candidates

    every = list(candidates(device, kernels))
    if fresh:
        return every
    keys = {c.record_key for c in every}
    known = store.trials.known(keys, device=device.fingerprint, toolchain=place(device))
    return [c for c in every if c.key not in known]
