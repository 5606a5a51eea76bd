"""The roof of this machine: figures in a sane range, from code that does nothing but what it is meant to time."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tuner.measure import roof
from tuner.measure.device import detect_cpu
from tuner.types import Device

pytestmark = pytest.mark.alone


def machine() -> Device:
    found = detect_cpu()
    return replace(found, cores=min(found.cores, 2))


def innermost(device: Device, function: object) -> str:
    """The assembly of the longest loop of a function."""
    text = roof._compile(function, device).mod.inspect_source("asm")
    return max(re.findall(r"\.LBB\d+_\d+:\n(?:\t.*\n)+?\tj\w+\t.*\n", text), key=len)


def test_figures_are_those_of_a_processor() -> None:
    found = roof.measure_roof(machine())
    assert 1e9 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13
    assert found.flops > found.bandwidth / 4  # a machine that reads faster than it multiplies does not exist


def test_a_group_that_is_killed_takes_the_measurement_along(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    hook = f"""
import os, pathlib, sys, time
if "tuner.measure.roof" in sys.orig_argv:
    pathlib.Path({str(pid_file)!r}).write_text(f"{{os.getpid()}}\\n")
    time.sleep(600)
"""
    (tmp_path / "sitecustomize.py").write_text(hook)
    program = "from tuner.measure import device, roof; roof.measure_roof(device.detect_cpu())"
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": paths}, start_new_session=True
    )
    try:
        while not pid_file.exists() or not pid_file.read_text().endswith("\n"):
            assert parent.poll() is None
            time.sleep(0.02)
        child = os.pidfd_open(int(pid_file.read_text()))
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
    ended, _, _ = select.select([child], [], [], 10)
    os.close(child)
    assert ended


def test_the_peak_loop_stays_in_registers() -> None:
    device = machine()
    loop = innermost(device, roof._chains(device, roof.CHAINS.get(device.registers, 8)))
    if device.mcpu.startswith(("znver", "skylake", "haswell", "x86", "sapphire", "icelake", "cascade")):
        assert "vfmadd" in loop
    assert not re.search(r"\((%r|%e)", loop), loop


def test_the_bandwidth_loop_reads_and_adds_only() -> None:
    device = machine()
    loop = innermost(device, roof._sums(device, 1 << 16))
    assert "rsp" not in loop
    assert len(re.findall(r"add[ps]", loop)) >= 8
