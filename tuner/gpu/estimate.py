"""Seconds that a kernel should take on a GPU, from what it does and what is published of the GPU: a first guess.

The greatest of four times, each at the share of the machine that its blocks can use:

    operations / peak,  those on tensor cores / their peak,  global bytes / L2 bandwidth,
    bytes from and to shared memory / its bandwidth

but no less than it takes to move each argument once from DRAM.

A share is lost to SMs without a block in the last round, to threads too few to hide latencies, and to warps not full.
What NVIDIA does not publish is assumed here and said to be; ranking learns from measurements what this gets wrong.
"""

from __future__ import annotations

from math import ceil

from tuner.gpu.counts import Counts
from tuner.gpu.spec import REGISTERS, WARP, GpuSpec

LAUNCH = 3e-6  # s a launch, assumed
L2_BYTES = 32  # B a cycle that one SM draws from L2, assumed
SHARED_BYTES = 128  # B a cycle of one SM's shared memory: 32 banks of 4 B (CUDA C++ Programming Guide)
HIDING = 512  # resident threads of an SM from which latencies count as hidden, assumed
OVERHEAD = 24  # registers of a thread beside what it accumulates, assumed
MOST_REGISTERS = 255  # of a thread; more are spilled
SPILLING = 4.0  # how many times slower a kernel is that spills, assumed
MOST_BLOCKS = 16  # resident on one SM


def resident_blocks(counts: Counts, spec: GpuSpec) -> int:
    """Blocks that one SM holds at once; 0 if not even one fits."""
    registers = min(MOST_REGISTERS, counts.local + OVERHEAD)
    limits = [spec.threads // counts.threads, REGISTERS // (registers * counts.threads), MOST_BLOCKS]
    if counts.shared:
        limits.append(spec.shared // counts.shared)
    return max(0, min(limits))


def occupied(counts: Counts, spec: GpuSpec) -> int:
    """SMs that a kernel's blocks fill at once; more do not help it.

    All of them for one of several launches, which nothing may run beside: between these it keeps numbers in memory that
    TVM's runtime would hand to the next kernel as well.
    """
    if counts.launches > 1:
        return spec.sms
    return max(1, min(spec.sms, ceil(counts.blocks / max(1, resident_blocks(counts, spec)))))


def estimate(counts: Counts, spec: GpuSpec, compulsory: float = 0.0, tensor_peak: float | None = None) -> float:
    """Seconds of one call.

    Args:
        compulsory: bytes of the kernel's arguments, each of which has to move once.
        tensor_peak: FLOP/s of the tensor cores in the kernel's precision; None: on float16.
    """
    resident = max(1, resident_blocks(counts, spec))
    rounds = ceil(counts.blocks / (spec.sms * resident))
    per_sm = min(resident, ceil(counts.blocks / spec.sms))
    balance = counts.blocks / (rounds * min(counts.blocks, spec.sms * resident))
    busy = min(1.0, counts.blocks / spec.sms)
    hidden = min(1.0, per_sm * counts.threads / HIDING) ** 0.5
    warps = counts.threads / (ceil(counts.threads / WARP) * WARP)
    share = balance * busy * hidden * warps
    plain = counts.operations - counts.tensor_operations
    drawn = max(
        plain / spec.peak,
        counts.tensor_operations / (tensor_peak or spec.tensor_fp16),
        counts.global_bytes / (spec.sms * L2_BYTES * spec.clock),
        counts.shared_bytes / (spec.sms * SHARED_BYTES * spec.clock),
    )
    spilled = SPILLING if counts.local + OVERHEAD > MOST_REGISTERS else 1.0
    return max(1, counts.launches) * LAUNCH + max(drawn * spilled / share, compulsory / spec.bandwidth)
