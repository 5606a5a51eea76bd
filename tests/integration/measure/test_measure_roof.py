"""The roof of this machine: figures in a sane range, from code that does nothing but what it is meant to time."""

from __future__ import annotations

import re
from dataclasses import replace

from tuner.measure import roof
from tuner.measure.device import detect_cpu
from tuner.types import Device


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
