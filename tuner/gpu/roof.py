"""What the GPU of this machine can do at most, measured: float32, tensor cores, device memory.

Kernels of our own are compiled here and measured as candidates are, in a child process (``tuner.gpu.bundle_run``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tuner.errors import DeviceError
from tuner.gpu.bundle_run import Unusable, arguments, measure
from tuner.gpu.spec import GpuSpec, spec_of
from tuner.types import Candidate, Device

if TYPE_CHECKING:
    from tuner.gpu.nvcc import Compiler

PROTOCOL = "gpu-roof-1"  # how this measures: figures of others are not compared with these
TEMPLATE = "roof"
BANDWIDTH = "bandwidth"
_SEED = 0

Measure = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class GpuRoof:
    """Measured figures of one GPU; None where it has no tensor cores for it."""

    fp32: float  # FLOP/s outside tensor cores, a multiply-add being two
    bandwidth: float  # B/s of device memory, reads and writes together
    fp16: float | None = None  # FLOP/s of tensor cores, sums in float32, by ``mma.sync``
    tf32: float | None = None  # likewise

    def applied(self, spec: GpuSpec) -> GpuSpec:
        """What is known of the GPU with these figures in place of its data sheet's."""
        return replace(
            spec, measured_peak=self.fp32, bandwidth=self.bandwidth, tensor_fp16=self.fp16 or spec.tensor_fp16,
            tensor_tf32=self.tf32 or spec.tensor_tf32,
        )  # fmt: skip

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> GpuRoof:
        return GpuRoof(**{name: None if data.get(name) is None else float(data[name])
                          for name in ("fp32", "bandwidth", "fp16", "tf32")})  # type: ignore[arg-type]  # fmt: skip


def published(spec: GpuSpec) -> GpuRoof:
    """The same figures by the data sheet."""
    sheet = replace(spec, measured_peak=None)
    return GpuRoof(sheet.peak, sheet.bandwidth, sheet.tensor_fp16 or None, sheet.tensor_tf32 or None)


def measure_gpu_roof(device: Device, compiler: Compiler, run: Measure = measure) -> GpuRoof:
    """Measure the GPU that is here; most of the time goes into compiling.

    Raises DeviceError (``not-measurable``) with the reason where a kernel fails or computes something else.
    """
    with tempfile.TemporaryDirectory(prefix="fusetune-roof-") as folder:
        work = write_bundle(device, compiler, Path(folder))
        try:
            found = run(Path(folder))
        except Unusable as error:
            raise DeviceError(str(error), code="not-measurable") from error
    return figures(work, found["results"])


def write_bundle(device: Device, compiler: Compiler, folder: Path) -> dict[str, tuple[str, float]]:
    """Compile the kernels into a bundle; returns what each candidate, by key, measures and how much work that is."""
    import tvm

    from tuner.gpu.bundle import Bundle
    from tuner.gpu.counts import Counts
    from tuner.gpu.cuda import build_kernel, target_of
    from tuner.gpu.explore import Seen
    from tuner.gpu.lower import Task
    from tuner.gpu.ranking import Looked
    from tuner.gpu.roof_kernels import kernels

    target, bundle = target_of(device), Bundle(folder, _SEED)
    work = {}
    for kernel in kernels(spec_of(device)):
        task = Task((kernel.name,), kernel.module, 1)
        (x,) = arguments(task.args, _SEED)
        bundle.add_task(task, kernel.expected(x))
        candidate = Candidate({}, task.hash, {}, TEMPLATE, 1, {}, device.cores, kernel.name)
        seen = Seen(candidate, Looked(Counts(), 0.0))
        built = build_kernel(tvm.IRModule(dict(kernel.module.functions)), target, bundle.library(seen), device.mcpu,
                             compiler)  # fmt: skip
        bundle.add(seen, built, 0.0)
        work[seen.key] = kernel.name, kernel.work
    bundle.finish({"name": "roof", "sha256": ""}, device, device.mcpu, compiler.name)
    return work


def figures(work: Mapping[str, tuple[str, float]], results: list[dict[str, Any]]) -> GpuRoof:
    """Rates from what a bundle's results say. The fastest sample counts for computing, the median for memory.

    Raises DeviceError (``not-measurable``) where something is missing or failed.
    """
    rates: dict[str, float] = {}
    for result in results:
        name, amount = work[result["key"]]
        if result["failure"] is not None:
            raise DeviceError(f"The GPU's {name} could not be measured: {result['failure']['message']}",
                              code="not-measurable")  # fmt: skip
        samples = result["samples"]
        rates[name] = amount / (median(samples) if name == BANDWIDTH else min(samples))
    if missing := {name for name, _ in work.values()} - set(rates):
        raise DeviceError(f"The GPU's {min(missing)} was not measured.", code="not-measurable")
    return GpuRoof.from_json(rates)
