"""CPUs and GPUs that artifacts can be built for on any machine, described without being there."""

from __future__ import annotations

from tuner.errors import UserError
from tuner.gpu.spec import CUDA, GPUS
from tuner.types import Device

XEON_4214R = Device(  # sources: Intel ARK; what /proc/cpuinfo and sysfs say of it; caches are those of Cascade Lake
    name="xeon-4214r", kind="cpu", model="Intel(R) Xeon(R) Silver 4214R CPU @ 2.40GHz", mcpu="cascadelake",
    features=("avx2", "avx512_vnni", "avx512bw", "avx512dq", "avx512f", "avx512vl", "f16c", "fma"),
    cores=12, lanes=16, registers=32, l1=32 << 10, l2=1 << 20, l3=16896 << 10, memory=16 << 30,
)  # fmt: skip
NAMED = {device.name: device for device in (XEON_4214R, *(spec.device() for spec in GPUS.values()))}


def check_measurable(device: Device, here: Device) -> None:
    """Raise UserError(``device-not-here``) when ``device`` is a named CPU and this machine's CPU, ``here``, is not one.

    Simulated devices are measured anywhere; GPUs never by what asks here.
    """
    if device.kind == CUDA:
        raise UserError(
            f"Measuring for {device.name} needs such a GPU ({device.model}), and goes by bundles of candidates.",
            code="device-not-here", hint="docs/gpu.md says how.",
        )  # fmt: skip
    if device.name in NAMED and device.fingerprint != here.fingerprint:
        raise UserError(
            f"Measuring for {device.name} needs such a machine ({device.model}, {device.cores} cores); "
            f"this one is {here.model} with {here.cores}.",
            code="device-not-here", hint="Artifacts can be built for it here, they cannot be timed.",
        )  # fmt: skip


def check_real(device: Device) -> None:
    """Raise UserError(``simulated-device``) for a simulated device: nothing can be built for it or run on it."""
    if device.simulated:
        raise UserError(
            f"{device.name} is simulated: there is nothing to build for it or to run on it.", code="simulated-device"
        )
