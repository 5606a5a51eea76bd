"""The first guess of a kernel's time: what it rewards is what makes GPUs fast."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuner.gpu.counts import Counts
from tuner.gpu.estimate import LAUNCH, estimate, occupied, resident_blocks
from tuner.gpu.spec import GPUS

GPU = GPUS["rtx3090"]
GOOD = Counts(
    launches=1, blocks=82 * 8, threads=256, operations=1e9, global_bytes=2e7, shared_bytes=2e8, shared=8 << 10, local=32
)


def test_a_kernel_is_never_faster_than_the_machine() -> None:
    seconds = estimate(GOOD, GPU)
    assert seconds >= LAUNCH + 1e9 / GPU.peak
    assert seconds < 3 * (LAUNCH + 1e9 / GPU.peak)
    assert estimate(GOOD, GPU, compulsory=1e9) == pytest.approx(LAUNCH + 1e9 / GPU.bandwidth)


@pytest.mark.parametrize(
    "worse",
    [
        {"blocks": 8},  # SMs without work
        {"blocks": 82 * 6 + 1},  # a last round of one block
        {"threads": 250},  # warps that are not full
        {"threads": 32, "blocks": 82},  # too few threads to hide latencies
        {"global_bytes": 1e10},
        {"shared_bytes": 1e11},
        {"local": 400},  # registers spilled
        {"launches": 3},
        {"operations": 2e9},
    ],
)
def test_what_makes_gpus_slow_costs_time(worse: dict[str, float]) -> None:
    assert estimate(replace(GOOD, **worse), GPU) > 1.01 * estimate(GOOD, GPU)


def test_blocks_are_resident_as_threads_registers_and_shared_memory_allow() -> None:
    assert resident_blocks(GOOD, GPU) == 4  # 256 threads of 56 registers
    assert resident_blocks(replace(GOOD, shared=48 << 10), GPU) == 2
    assert resident_blocks(replace(GOOD, threads=1024, local=8), GPU) == 1
    assert resident_blocks(replace(GOOD, threads=32, local=1, shared=0), GPU) == 16
    assert resident_blocks(replace(GOOD, shared=101 << 10), GPU) == 0


def test_a_faster_gpu_is_faster() -> None:
    assert estimate(GOOD, GPUS["h200"]) < estimate(GOOD, GPU)


def test_sms_that_a_kernel_fills() -> None:
    assert occupied(replace(GOOD, blocks=40), GPU) == 10  # four blocks on each
    assert occupied(GOOD, GPU) == 82
    assert occupied(replace(GOOD, blocks=40, launches=2), GPU) == 82  # nothing may run beside it
