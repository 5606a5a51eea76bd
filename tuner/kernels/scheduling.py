"""Small schedule moves that several templates share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import te
from tvm.s_tir import Schedule


def module_of(tensors: Sequence[te.Tensor]) -> tvm.IRModule:
    """The module whose one function, "main", computes the last tensor from the others; its buffers do not alias."""
    func = te.create_prim_func(list(tensors)).with_attr({"global_symbol": "main", "tirx.noalias": True})
    return tvm.IRModule({"main": func})


def schedule_of(module: tvm.IRModule) -> Schedule:
    """A traced Schedule of a module that has not been scheduled yet."""
    return Schedule(module, debug_mask="none")


def parallelise(sch: Schedule, loop: Any, cores: int, device_cores: int) -> Any:
    """Spread ``loop`` over ``cores`` of the device's cores; returns the loop that runs inside one chunk.

    One core means no parallel launch at all; all cores leave the chunking to TVM's runtime (contiguous, even).
    """
    if cores == 1:
        return loop
    if cores >= device_cores:
        sch.parallel(loop)
        return loop
    extent = int(sch.get(loop).extent)
    chunks = min(cores, extent)
    outer, inner = sch.split(loop, [chunks, -(-extent // chunks)])
    sch.parallel(outer)
    return inner


def divisors(n: int, limit: int) -> list[int]:
    """Divisors of ``n`` up to ``limit``, ascending."""
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]
