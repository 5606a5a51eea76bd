"""Devices by name: this machine's CPU as this process may use it, its GPU, known ones, and simulated ones."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tuner.environment import child_environment
from tuner.errors import UserError
from tuner.gpu.detect import detect
from tuner.measure.named import NAMED
from tuner.simulate.spec import PREFIX, load, names
from tuner.types import Device

_FEATURES = {
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2",
}  # fmt: skip
_CACHES = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}  # bytes, where the machine does not say
_PROBE = (
    "import json, tvm; from tvm.target import codegen as c;"
    "print(json.dumps([c.llvm_get_system_cpu(), c.llvm_version_major()]))"
)


def devices(name: str) -> Device:
    """The device called ``name``: "cpu", "gpu", a CPU or GPU known by name, or "sim:" with a spec's name or path.

    Raises UserError: ``unknown-device``, which lists the known ones, ``bad-spec`` for a spec file that cannot be used;
    DeviceError for "gpu" where there is none that can be used.
    """
    if name == "cpu":
        return detect_cpu()
    if name == "gpu":
        return detect().device()
    if name.startswith(PREFIX):
        return load(name).device(name)
    if name not in NAMED:
        known = ", ".join(device_names())
        raise UserError(f"There is no device {name!r} here; known are: {known}.", code="unknown-device")
    return NAMED[name]


def device_names() -> tuple[str, ...]:
    """Every name that ``devices`` knows on any machine, its CPU first; "gpu" and "sim:PATH.json" come on top."""
    return ("cpu", *NAMED, *(f"{PREFIX}{name}" for name in names()))


@lru_cache(maxsize=1)
def detect_cpu() -> Device:
    """This machine's CPU as this process may use it."""
    return read_cpu(Path("/"), os.sched_getaffinity(0), _llvm()[0])


def read_cpu(root: Path, affinity: set[int], mcpu: str) -> Device:
    """The CPU described by the files under ``root`` (normally "/") to a process with this affinity."""
    info = _cpuinfo(root)
    flags = _flags(info)
    lanes = 16 if "avx512f" in flags else 8 if "avx2" in flags or "avx" in flags else 4
    caches = _CACHES | _caches(root, min(affinity))
    return Device(
        name="cpu", kind="cpu",
        model=info.get("model name") or info.get("Model") or info.get("Hardware") or platform.machine(),
        mcpu=mcpu, features=cpu_features(root), cores=physical_cores(root, affinity), lanes=lanes,
        registers=32 if "avx512f" in flags or "asimd" in flags else 16,
        l1=caches[1], l2=caches[2], l3=caches[3], memory=_memory(root),
    )  # fmt: skip


def cpu_features(root: Path = Path("/")) -> tuple[str, ...]:
    """The instruction sets of this processor that decide code generation, sorted, by the kernel's names. Cheap."""
    return tuple(sorted(_FEATURES & _flags(_cpuinfo(root))))


def physical_cores(root: Path, affinity: set[int]) -> int:
    """Cores of which at least one hardware thread is ours, no more than the cgroup's quota pays for; at least 1."""
    cores = set()
    for cpu in affinity:
        siblings = _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(frozenset(_cpu_list(siblings)) if siblings else frozenset([cpu]))
    quota = _quota(root)
    return max(1, int(min(len(cores), quota)))


@lru_cache(maxsize=1)
def toolchain() -> str:
    """What compiles and runs kernels here, such as "tvm-0.27.0.post1+ffi-0.1.14.post1+llvm-22". Never imports TVM.

    Wheels of one TVM version always carry the same LLVM; an unknown version is asked once, in a child process.
    """
    tvm, ffi = _version("apache-tvm"), _version("apache-tvm-ffi")
    return f"tvm-{tvm}+ffi-{ffi}+llvm-{_LLVM.get(tvm) or _llvm()[1]}"


_LLVM = {"0.27.0.post1": "22"}  # TVM version -> LLVM built into its wheel


@lru_cache(maxsize=1)
def _llvm() -> tuple[str, str]:
    """(LLVM's name of this processor, LLVM's major version), from a short-lived child that imports TVM for us."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=True,
            env=child_environment(),
        )  # fmt: skip
        mcpu, major = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return "generic", "unknown"
    return str(mcpu), str(major)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entries."""
    found: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _flags(info: dict[str, str]) -> set[str]:
    return set((info.get("flags") or info.get("Features") or "").split())


def _caches(root: Path, cpu: int) -> dict[int, int]:
    """Level -> bytes of the data or unified cache that this CPU sees. A machine without L3 has its L2 as the last."""
    found: dict[int, int] = {}
    for index in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
        if _text(index / "type") != "Instruction" and (size := _size(_text(index / "size"))):
            found[int(_text(index / "level") or 0)] = size
    if 2 in found and 3 not in found:
        found[3] = found[2]
    return {level: size for level, size in found.items() if level in _CACHES}


def _size(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    digits = text.rstrip("KMG")
    return int(digits) * units.get(text[-1:], 1) if digits.isdigit() else 0


def _cpu_list(text: str) -> list[int]:
    """The CPUs in the kernel's notation "0-2,8"."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _quota(root: Path) -> float:
    """Processors that the cgroups up to the root pay for; infinite without a limit."""
    least = float("inf")
    for folder in _cgroups(root, "", "cpu.max"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            least = min(least, int(quota) / int(period))
    for folder in _cgroups(root, "cpu", "cpu.cfs_quota_us"):
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            least = min(least, int(quota) / int(period))
    return least


def _memory(root: Path) -> int:
    """Bytes: what is installed, or less where a cgroup says so."""
    least = 0
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            least = int(line.split()[1]) << 10
    least = least or 4 << 30
    for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        for folder in _cgroups(root, controller, name):
            limit = _text(folder / name)
            if limit.isdigit():
                least = min(least, int(limit))
    return least


def _cgroups(root: Path, controller: str, name: str) -> list[Path]:
    """Folders with the file ``name`` of this process's cgroup (v2 if ``controller`` is "") and of those above it.

    Inside a container the path in /proc/self/cgroup may be the host's; the mount's root is then our own group.
    """
    base = root / "sys/fs/cgroup"
    folders = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if (controller in controllers.split(",")) if controller else (number == "0" and not controllers):
            mount = base / controller if controller else base
            below = mount / path.lstrip("/")
            while below != mount and mount in below.parents:
                folders.append(below)
                below = below.parent
            folders.append(mount)
    return [f for f in folders if (f / name).exists()]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
