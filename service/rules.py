"""What this version can be asked for: the same rules for the command line, the API and the dashboard.

What is taken from ``tuner`` here is pure Python: the server loads neither NumPy nor ONNX nor TVM.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuner.errors import UserError
from tuner.precision import check_features, check_precision
from tuner.search.strategies.options import OPTIONS, check, parse
from tuner.types import SIMULATED, Budget, Device, JobSpec

SIMULATED_STRATEGIES = tuple(OPTIONS)
STRATEGIES = ("joint", "greedy", *(name for name in OPTIONS if name != "joint"))  # on real devices
DEFAULT_SECONDS = 300.0  # of a job that names no budget


def checked(spec: JobSpec, device: Device | None = None) -> JobSpec:
    """The spec with its default budget. Raises UserError for what this version, or the device, cannot do.

    A plan is checked for its form alone; whether it fits the model is found out where the model is read.
    """
    from tuner.graph.passes.registry import check_names
    from tuner.plan.plan import Plan

    if device is not None and device.kind == "cuda":
        _check_on_gpu(spec, device)
    else:
        simulated = spec.device.startswith(SIMULATED)
        check_strategy(spec.strategy, spec.device)
        check_precision(spec.precision, simulated=simulated)
        if spec.memory_limit is not None and simulated:
            raise UserError("A memory limit means nothing on simulated devices.", code="bad-memory-limit")
    check_names(spec.disabled_passes)
    if spec.plan is not None:
        Plan.from_json(spec.plan)
    if device is not None:
        check_cores(spec.cores, device)
        if device.kind == "cpu":
            check_features(spec.precision, device.features)
    if spec.budget.trials is None and spec.budget.seconds is None:
        return replace(spec, budget=Budget(seconds=DEFAULT_SECONDS))
    return spec


def _check_on_gpu(spec: JobSpec, device: Device) -> None:
    """Raise UserError: ``unknown-strategy``, ``bad-plan``, ``bad-memory-limit``, ``bad-precision``."""
    from tuner.gpu.precision import check_precision as check_on_gpu
    from tuner.gpu.spec import spec_of

    if spec.strategy != JobSpec.strategy:
        raise UserError(f"Strategy {spec.strategy!r} is none for GPUs.", code="unknown-strategy",
                        hint=f"They are tuned with {JobSpec.strategy!r} alone.")  # fmt: skip
    if spec.plan is not None:
        raise UserError("Plans by hand are not taken for GPUs.", code="bad-plan", hint="docs/gpu.md says why.")
    if spec.memory_limit is not None:
        raise UserError("A memory limit means nothing on GPUs.", code="bad-memory-limit")
    check_on_gpu(spec.precision, spec_of(device))


def check_strategy(asked: str, device: str) -> None:
    """Raise UserError when there is no such strategy on the device of this name, or not with these options."""
    strategies = SIMULATED_STRATEGIES if device.startswith(SIMULATED) else STRATEGIES
    name, options = parse(asked)
    if name not in strategies:
        known = f"Known on {device}: {', '.join(strategies)}."
        raise UserError(f"Unknown strategy {name!r}.", code="unknown-strategy", hint=known)
    check(name, options)


def check_cores(cores: Collection[int] | None, device: Device) -> None:
    """Raise UserError when more cores are asked for than the device has."""
    if cores and max(cores) > device.cores:
        raise UserError(f"{max(cores)} cores are asked for, the device has {device.cores}.", code="bad-cores")


def check_shapes(shapes: Mapping[str, Sequence[int]], inputs: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError when these shapes do not make every input of a model static.

    ``inputs`` is what inspection found (service.inspect.Contents.inputs): ``unknown-input``, ``shape-contradiction``,
    ``missing-shape``.
    """
    from tuner.graph.open_shapes import resolve

    if all("declared" in each for each in inputs):
        resolve({each["name"]: each["declared"] for each in inputs}, shapes)


def covers(done: Budget, asked: Budget) -> bool:
    """Whether the budget ``done`` was at least ``asked``, in the same terms."""
    pairs = ((done.trials, asked.trials), (done.seconds, asked.seconds))
    return all(d is None or (a is not None and a <= d) for d, a in pairs)
