"""The gauge: what it reads, and that its burst is all arithmetic on operands in the first-level cache."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tvm

from tuner.measure.contention import Gauge, build_burst, kernel_burst, work
from tuner.measure.device import detect_cpu
from tuner.measure.gauging import ThreadGauge
from tuner.types import Device


def test_a_reading_is_the_fastest_of_a_few_bursts_over_what_they_take_on_calm_cores() -> None:
    fastest = [2.0, 2.0, 1.9, 2.0, 2.0, 4.0, 0.5, 3.0]
    times = iter([t for least in fastest for t in (0.1, 9.0, 8.0, least, 9.0, 9.0)])  # the first of each six warms
    gauge = Gauge(lambda: next(times))
    assert [gauge.read() for _ in fastest] == [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.5]
    assert gauge.floor == 2.0  # a single burst at half of it is no floor


def test_it_goes_on_from_the_floor_of_earlier_processes() -> None:
    gauge = Gauge(lambda: 3.0, floor=2.0)
    assert (gauge.read(), gauge.floor) == (1.5, 2.0)
    gauge.hear(2.5)
    assert gauge.floor == 2.0
    gauge.hear(1.5)
    assert (gauge.read(), gauge.floor) == (2.0, 1.5)


def avx2() -> Device:
    return replace(detect_cpu(), mcpu="haswell", features=("avx2", "fma"), lanes=8, registers=16, cores=2)


def avx512() -> Device:
    return replace(detect_cpu(), mcpu="cascadelake", features=("avx512f",), lanes=16, registers=32, cores=2)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for x86-64")
@pytest.mark.parametrize("device", [avx2(), avx512()], ids=["avx2", "avx512"])
def test_the_burst_does_what_a_kernel_does(device: Device) -> None:
    text = tvm.compile(tvm.IRModule({"main": work(device)}), target=tvm.target.Target(device.target()))
    loops = re.findall(r"\.LBB\d+_\d+:\n(?:\t.*\n)+?\tj\w+\t.*\n", text.mod.inspect_source("asm"))
    inner = max(loops, key=len)
    assert inner.count("vfmadd") >= 12
    assert "rsp" not in inner  # nothing is spilled


def test_it_is_built_once_and_runs(tmp_path: Path) -> None:
    device, library = detect_cpu(), tmp_path / "burst.so"
    assert kernel_burst(device, library) is None
    build_burst(device, library)
    made = library.stat().st_mtime_ns
    build_burst(device, library)
    assert library.stat().st_mtime_ns == made
    assert [p.name for p in tmp_path.iterdir()] == ["burst.so"]
    burst = kernel_burst(device, library)
    assert burst is not None and 1e-6 < min(burst() for _ in range(50)) < 1e-2


def test_the_gauge_without_a_compiler_reads_each_cpu() -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    before = os.sched_getaffinity(0)
    gauge = ThreadGauge(cpus)
    assert gauge.floor == float("inf")
    readings = [gauge.read() for _ in range(5)]
    assert all(1.0 <= reading < 1000 for reading in readings)  # on calm cores each may be 1
    assert 1e-7 < gauge.floor < 1.0  # measured, not assumed
    assert os.sched_getaffinity(0) == before
