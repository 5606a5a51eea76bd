"""The NVIDIA GPU of this machine, as its driver describes it. Knows no TVM, needs no CUDA.

nvidia-smi names the GPU, its memory, clocks and driver; the number of SMs comes from the driver's library, or from
what is published of that model where the library cannot be asked.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tuner.errors import DeviceError
from tuner.gpu.spec import CUDA, FP32_LANES, GPUS, REGISTERS, WARP
from tuner.types import Device

OLDEST_DRIVER = 580  # branch that the CUDA 13 runtime needs, with which TVM's wheel is linked (CUDA release notes)
_FIELDS = ("name", "compute_cap", "memory.total", "clocks.max.sm", "clocks.max.memory", "driver_version")
_SMS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT in cuda.h


@dataclass(frozen=True)
class Gpu:
    """One GPU that is here."""

    index: int  # in the driver's order
    model: str
    arch: str  # "sm_86"
    sms: int
    memory: int  # B
    clock: float  # Hz, the highest of the SMs
    memory_clock: float  # Hz, the highest
    driver: str

    def device(self) -> Device:
        """The GPU as the Device "gpu"; the driver's branch is a part of its fingerprint."""
        known = next((spec for spec in GPUS.values() if spec.model == self.model), None)
        known = known or next((spec for spec in GPUS.values() if spec.arch == self.arch), None)
        l1, l2 = (known.l1, known.l2) if known else (128 << 10, 4 << 20)
        return Device(
            name="gpu", kind=CUDA, model=self.model, mcpu=self.arch, features=(f"driver-{_branch(self.driver)}",),
            cores=self.sms, lanes=WARP, registers=REGISTERS, l1=l1, l2=l2, l3=l2, memory=self.memory,
        )  # fmt: skip


def detect(index: int = 0, count_sms: Callable[[int], int | None] | None = None) -> Gpu:
    """The GPU of this number.

    ``count_sms`` gives a GPU's number of SMs, None if it cannot.

    Raises DeviceError naming what is missing: ``no-gpu`` (no driver, no GPU, or not this one), ``old-driver``,
    ``unknown-gpu`` (an architecture for which nothing can be compiled, or SMs that nobody can count).
    """
    rows = _query()
    if index >= len(rows):
        raise DeviceError(f"There is no GPU {index} here; the driver names {len(rows)}.", code="no-gpu")
    name, capability, memory, clock, memory_clock, driver = rows[index]
    if _branch(driver) < OLDEST_DRIVER:
        raise DeviceError(
            f"The NVIDIA driver here is {driver}; running kernels needs {OLDEST_DRIVER} or newer.", code="old-driver",
            hint="Update the driver: TVM's runtime is linked with CUDA 13.",
        )  # fmt: skip
    arch = f"sm_{capability.replace('.', '')}"
    if arch not in FP32_LANES:
        raise DeviceError(
            f"{name} has compute capability {capability}, for which nothing is built.", code="unknown-gpu",
            hint=f"Known are {', '.join(FP32_LANES)}.",
        )  # fmt: skip
    sms = (count_sms or driver_sms)(index)
    sms = sms or next((spec.sms for spec in GPUS.values() if spec.model == name), None)
    if sms is None:
        raise DeviceError(f"The driver's library does not say how many SMs {name} has.", code="unknown-gpu")
    return Gpu(index, name, arch, sms, _number(memory) << 20, _number(clock) * 1e6, _number(memory_clock) * 1e6, driver)


def driver_sms(index: int) -> int | None:
    """Streaming multiprocessors of GPU ``index`` according to libcuda; None where it cannot be asked."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, count = ctypes.c_int(), ctypes.c_int()
    if library.cuInit(0) or library.cuDeviceGet(ctypes.byref(device), index):
        return None
    if library.cuDeviceGetAttribute(ctypes.byref(count), _SMS, device):
        return None
    return count.value or None


def _query() -> list[list[str]]:
    """One row of ``_FIELDS`` for each GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise DeviceError(
            "There is no NVIDIA GPU here: nvidia-smi, which comes with the driver, was not found.", code="no-gpu"
        )
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"nvidia-smi did not answer: {error}.", code="no-gpu") from error
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    if done.returncode:
        raise DeviceError(f"nvidia-smi finds no usable GPU: {said[0] if said else 'it says nothing'}", code="no-gpu")
    rows = [[part.strip() for part in line.split(",")] for line in said]
    if not rows or any(len(row) != len(_FIELDS) for row in rows):
        raise DeviceError(f"nvidia-smi finds no usable GPU: {said[0] if said else 'it names none'}", code="no-gpu")
    return rows


def _branch(driver: str) -> int:
    return _number(driver.partition(".")[0])


def _number(text: str) -> int:
    """0 for what the driver does not know ("[N/A]")."""
    return int(text) if text.isdigit() else 0
