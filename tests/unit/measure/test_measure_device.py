"""What the machine's files say about its CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tuner.errors import UserError
from tuner.measure.device import devices, physical_cores, read_cpu, toolchain


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def threads(siblings: dict[int, str]) -> dict[str, str]:
    return {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": text for n, text in siblings.items()}


def test_two_hyperthreads_are_one_core(tmp_path: Path) -> None:
    write(tmp_path, threads({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}))
    assert physical_cores(tmp_path, {0, 1, 2, 3}) == 2
    assert physical_cores(tmp_path, {0, 2}) == 1
    assert physical_cores(tmp_path, {0, 1}) == 2


def test_sibling_ranges_are_read(tmp_path: Path) -> None:
    write(tmp_path, threads({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}))
    assert physical_cores(tmp_path, {0, 1, 2, 3}) == 2


def test_without_topology_every_cpu_is_a_core(tmp_path: Path) -> None:
    assert physical_cores(tmp_path, {4, 5, 6}) == 3


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n0::/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        ({"proc/self/cgroup": "4:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, 8),
    ],
)  # fmt: skip
def test_a_cgroup_quota_limits_the_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert physical_cores(write(tmp_path, files), set(range(8))) == cores


def test_an_avx512_machine(tmp_path: Path) -> None:
    cache = "sys/devices/system/cpu/cpu0/cache/index"
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Some CPU\nflags\t: fpu avx2 fma avx512f avx512_vnni\nmodel name\t: Other",
            "proc/meminfo": "MemTotal:  1024 kB",
            f"{cache}0/type": "Data", f"{cache}0/level": "1", f"{cache}0/size": "48K",
            f"{cache}1/type": "Instruction", f"{cache}1/level": "1", f"{cache}1/size": "32K",
            f"{cache}2/type": "Unified", f"{cache}2/level": "2", f"{cache}2/size": "2M",
            f"{cache}3/type": "Unified", f"{cache}3/level": "3", f"{cache}3/size": "32M",
        },
    )  # fmt: skip
    device = read_cpu(root, {0}, "znver5")
    assert (device.model, device.mcpu, device.lanes, device.registers) == ("Some CPU", "znver5", 16, 32)
    assert (device.l1, device.l2, device.l3) == (48 << 10, 2 << 20, 32 << 20)
    assert device.features == ("avx2", "avx512_vnni", "avx512f", "fma")
    assert device.memory == 1 << 20


def test_a_bare_arm_machine_gets_sane_defaults(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "Features\t: fp asimd",
            "proc/meminfo": "MemTotal: 4194304 kB",
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": str(1 << 30),
        },
    )
    device = read_cpu(root, {0, 1}, "generic")
    assert (device.lanes, device.registers, device.cores) == (4, 32, 2)
    assert device.l1 and device.l2 and device.l3
    assert device.memory == 1 << 30


def test_this_machine() -> None:
    device = devices("cpu")
    assert 1 <= device.cores <= len(os.sched_getaffinity(0))
    assert device.memory > 1 << 28 and device.mcpu


def test_an_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="cpu") as raised:
        devices("tpu")
    assert raised.value.code == "unknown-device"


def test_the_toolchain_names_all_three_parts() -> None:
    tvm, ffi, llvm = toolchain().split("+")
    assert tvm.startswith("tvm-0.") and ffi.startswith("ffi-0.") and llvm.removeprefix("llvm-").isdigit()
