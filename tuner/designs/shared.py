"""How much shared memory a scheduled function takes, by TVM's own account."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm.s_tir import transform
from tvm.s_tir.stmt import SBlock

_PASSES = (
    transform.LowerInitBlock, transform.PlanAndUpdateBufferAllocationLocation, transform.ConvertBlocksToOpaque,
    transform.CompactBufferAllocation,
)  # fmt: skip


def shared_bytes(function: Any) -> int:
    """Bytes of one block of threads, each buffer as large as TVM makes it: more than ends up in use, if anything."""
    lowered = tvm.transform.Sequential([make() for make in _PASSES])(tvm.IRModule({"main": function}))["main"]
    sizes: list[int] = []

    def see(block: Any) -> None:
        for buffer in block.alloc_buffers:
            if str(buffer.scope()).startswith("shared"):
                sizes.append(int(np.prod([int(n) for n in buffer.shape])) * np.dtype(str(buffer.dtype)).itemsize)

    tvm_ffi.structural_walk(lowered.body, (SBlock, see))
    return sum(sizes)
