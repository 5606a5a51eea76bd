"""The CUDA C of a kernel run on the CPU, a thread for each of its own; tensor cores are played from the PTX ISA."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi
from tvm import tirx

_HEADER = Path(__file__).with_name("warps_on_cpu.hpp")
_OWN = re.compile(r"__forceinline__ __device__ \w+ fusetune_\w+\(.*?\n}\n", re.S)  # defined by the header instead
_SHARED = re.compile(r"extern __shared__ __align__\(64\) uchar (\w+)\[\];")


def can_run() -> bool:
    return shutil.which("c++") is not None


def run(
    source: str, function: Any, inputs: Sequence[np.ndarray], shape: tuple[int, ...], folder: Path
) -> np.ndarray:  # fmt: skip
    """The output of a kernel, whose code TVM wrote for the scheduled ``function``; NaN where nothing was written."""
    start = min(source.index(word) for word in ("__forceinline__ __device__", 'extern "C"') if word in source)
    kernel = _SHARED.sub(r"uchar* \1 = shared_memory;", _OWN.sub("", source[start:]))
    kernel = kernel.replace("__shared__ alignas(64)", "alignas(64) static")  # one block at a time
    assert "asm" not in kernel
    extents = _extents(function)
    grid, block = (_dim(extents, name) for name in ("blockIdx", "threadIdx"))
    pointers = ", ".join(f"float* p{k}" for k in range(len(inputs) + 1))
    call = f"main_kernel({_ordered(kernel, function)});"
    code = (
        f'#include "{_HEADER}"\n{kernel}\n'
        f'extern "C" void run({pointers}) {{ launch({grid}, {block}, [=] {{ {call} }}); }}'
    )
    (folder / "kernel.cpp").write_text(code)
    library = folder / "kernel.so"
    command = ["c++", "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-pthread", "-ffp-contract=off"]
    subprocess.run([*command, "-o", str(library), str(folder / "kernel.cpp")], check=True)
    out = np.full(shape, np.nan, np.float32)
    arrays = [*(np.ascontiguousarray(x, np.float32) for x in inputs), out]
    ctypes.CDLL(str(library)).run(*(ctypes.c_void_p(array.ctypes.data) for array in arrays))
    return out


def _extents(function: Any) -> dict[str, int]:
    found: dict[str, int] = {}

    def see(loop: Any) -> None:
        if loop.thread_binding is not None:
            tag = str(loop.thread_binding.thread_tag)
            found[tag] = max(found.get(tag, 1), int(loop.extent))

    tvm_ffi.structural_walk(function.body, (tirx.For, see))
    return found


def _dim(extents: dict[str, int], axis: str) -> str:
    return "dim{" + ", ".join(f"{extents.get(f'{axis}.{d}', 1)}u" for d in "xyz") + "}"


def _ordered(kernel: str, function: Any) -> str:
    """The arguments as the kernel takes them, which is called with the function's."""
    numbers = {f"{parameter.name}_ptr": k for k, parameter in enumerate(function.params)}
    taken = kernel[kernel.rindex("main_kernel(") :].split("(")[1].split(")", maxsplit=1)[0].split(",")
    return ", ".join(f"p{numbers[each.split()[-1]]}" for each in taken)
