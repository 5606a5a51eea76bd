"""What this version can be asked for: the same rules for the command line, the API and the dashboard."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from tuner.errors import UserError
from tuner.types import Budget, Device, JobSpec

STRATEGIES = ("greedy", "none")
PRECISIONS = ("fp32",)
DEFAULT_SECONDS = 300.0  # of a job that names no budget


def checked(spec: JobSpec, device: Device | None = None) -> JobSpec:
    """The spec with its default budget. Raises UserError for what this version, or the device, cannot do."""
    if spec.strategy not in STRATEGIES:
        known = f"Known: {', '.join(STRATEGIES)}."
        raise UserError(f"Unknown strategy {spec.strategy!r}.", code="unknown-strategy", hint=known)
    if spec.precision not in PRECISIONS:
        known = f"Known: {', '.join(PRECISIONS)}."
        raise UserError(f"Precision {spec.precision!r} is not supported.", code="bad-precision", hint=known)
    if device is not None:
        check_cores(spec.cores, device)
    if spec.budget.trials is None and spec.budget.seconds is None:
        return replace(spec, budget=Budget(seconds=DEFAULT_SECONDS))
    return spec


def check_cores(cores: Collection[int] | None, device: Device) -> None:
    """Raise UserError when more cores are asked for than the device has."""
    if cores and max(cores) > device.cores:
        raise UserError(f"{max(cores)} cores are asked for, the device has {device.cores}.", code="bad-cores")


def covers(done: Budget, asked: Budget) -> bool:
    """Whether the budget ``done`` was at least ``asked``, in the same terms."""
    pairs = ((done.trials, asked.trials), (done.seconds, asked.seconds))
    return all(d is None or (a is not None and a <= d) for d, a in pairs)
