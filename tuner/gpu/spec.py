"""NVIDIA GPUs by name, as data: what can be built for them, and estimated, on any machine. Knows no TVM.

Sources: NVIDIA's architecture white papers (GA102 2.1, A100, AD102, H100) and data sheets, the figures without
sparsity; limits of a compute capability from the CUDA C++ Programming Guide, "Technical Specifications per Compute
Capability".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tuner.errors import UserError
from tuner.types import Device

CUDA = "cuda"  # Device.kind of all of them
WARP = 32  # threads
REGISTERS = 65536  # of an SM, 32 bits each
SHARED = 48 << 10  # B of shared memory that a block of threads gets without asking for more
THREADS = 1024  # of a block
FP32_LANES = {"sm_80": 64, "sm_86": 128, "sm_89": 128, "sm_90": 128}  # float32 multiply-adds of an SM a cycle


@dataclass(frozen=True)
class GpuSpec:
    """A GPU model. Bytes, hertz, bytes a second, floating-point operations a second (a multiply-add is two)."""

    name: str  # what users say
    model: str  # as the driver names it
    arch: str  # what compilers call it: "sm_86"
    sms: int
    clock: float  # Hz, boost
    bandwidth: float  # B/s of device memory
    memory: int  # B of device memory
    l2: int  # B, shared by all SMs
    l1: int  # B of an SM: L1 cache and shared memory together
    shared: int  # B of shared memory that the blocks on one SM may hold together
    threads: int  # that may be resident on one SM
    tensor_fp16: float  # FLOP/s of the tensor cores on float16, summed in float32
    tensor_tf32: float  # FLOP/s of the tensor cores on tf32
    measured_peak: float | None = None  # FLOP/s in float32 outside tensor cores; None: never measured

    @property
    def peak(self) -> float:
        """FLOP/s in float32 outside tensor cores, as measured or by the data sheet."""
        return self.measured_peak or self.sms * FP32_LANES[self.arch] * 2 * self.clock

    def device(self) -> Device:
        """The GPU as a Device; its SMs are the cores, a warp's threads the lanes."""
        return Device(
            name=self.name, kind=CUDA, model=self.model, mcpu=self.arch, features=(), cores=self.sms, lanes=WARP,
            registers=REGISTERS, l1=self.l1, l2=self.l2, l3=self.l2, memory=self.memory,
        )  # fmt: skip


_K, _M, _G = 1 << 10, 1 << 20, 1 << 30
GPUS = {
    spec.name: spec
    for spec in (
        GpuSpec("rtx3090", "NVIDIA GeForce RTX 3090", "sm_86", 82, 1695e6, 936.2e9, 24 * _G, 6 * _M, 128 * _K, 100 * _K,
                1536, 71.2e12, 35.6e12),
        GpuSpec("rtx4090", "NVIDIA GeForce RTX 4090", "sm_89", 128, 2520e6, 1008e9, 24 * _G, 72 * _M, 128 * _K,
                100 * _K, 1536, 165.2e12, 82.6e12),
        GpuSpec("a100", "NVIDIA A100-SXM4-80GB", "sm_80", 108, 1410e6, 2039e9, 80 * _G, 40 * _M, 192 * _K, 164 * _K,
                2048, 312e12, 156e12),
        GpuSpec("h100", "NVIDIA H100 80GB HBM3", "sm_90", 132, 1980e6, 3350e9, 80 * _G, 50 * _M, 256 * _K, 228 * _K,
                2048, 989.4e12, 494.7e12),
        GpuSpec("h200", "NVIDIA H200", "sm_90", 132, 1980e6, 4800e9, 141 * 10**9, 50 * _M, 256 * _K, 228 * _K,
                2048, 989.4e12, 494.7e12),
    )
}  # fmt: skip


def spec_of(device: Device) -> GpuSpec:
    """What is published of a GPU, by its name, its model, or (with its own SM count) its architecture.

    Raises UserError (``unknown-gpu``) for an architecture that none of the known GPUs has.
    """
    for alike in (lambda s: s.name == device.name or s.model == device.model, lambda s: s.arch == device.mcpu):
        for spec in filter(alike, GPUS.values()):
            return replace(spec, sms=device.cores)
    raise UserError(
        f"Nothing is known of GPUs of architecture {device.mcpu} ({device.model}).", code="unknown-gpu",
        hint=f"Known are {', '.join(sorted({spec.arch for spec in GPUS.values()}))}.",
    )  # fmt: skip


def check_not_gpu(device: Device, what: str) -> None:
    """Raise UserError (``gpu-not-here``) where something is asked of a GPU that is done on CPUs only."""
    if device.kind == CUDA:
        raise UserError(f"{what} is not done for GPUs, and {device.name} is one.", code="gpu-not-here",
                        hint="docs/gpu.md says what is.")  # fmt: skip
