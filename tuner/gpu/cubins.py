"""Kernels compiled elsewhere, handed to TVM's runtime where the GPU is. Needs NumPy and the TVM runtime at most.

A folder of cubins holds one file for each piece of CUDA C, named after its SHA-256. This file travels in bundles and
artifacts, so it imports nothing of fusetune.
"""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

SUFFIX = ".cubin"


def digest_of(source: str) -> str:
    """SHA-256 of CUDA C, what its cubin is called."""
    return hashlib.sha256(source.encode()).hexdigest()


def serve_cubins(*folders: Path) -> None:
    """Have TVM's CUDA runtime take kernels from these instead of compiling. Call it before a library is loaded.

    Raises OSError when the CUDA runtime or the driver's library is missing; the runtime raises a RuntimeError naming
    the digest when it asks for a kernel that is in none of the folders.
    """
    preload_runtime()
    import tvm  # registers a callback of its own, which is replaced here
    import tvm_ffi

    # With the TVM runtime alone ``import tvm`` loads no device's library.
    ctypes.CDLL(str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"), mode=ctypes.RTLD_GLOBAL)
    known = {path.stem: path for folder in folders for path in folder.glob(f"*{SUFFIX}")}

    def answer(source: object, *_: object) -> bytes:
        wanted = digest_of(str(source))
        if wanted not in known:
            raise RuntimeError(f"There is no cubin {wanted} in {folders[0]}.")
        return known[wanted].read_bytes()

    tvm_ffi.register_global_func("tvm_callback_cuda_compile", answer, override=True)


def preload_runtime() -> bool:
    """Load libcudart 13 from NVIDIA's wheel where the system has none; whether there is one now."""
    try:
        ctypes.CDLL("libcudart.so.13", mode=ctypes.RTLD_GLOBAL)
        return True
    except OSError:
        pass
    try:
        import nvidia
    except ImportError:
        return False
    for folder in nvidia.__path__:
        for path in sorted(Path(folder).glob("cu*/lib/libcudart.so.13")):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return True
    return False
