"""Small schedule moves that several templates share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule

from tuner.kernels import rounding

CHUNK = "fusetune.chunk"  # marks loops of iterations as independent as those of the parallel loop around them


def module_of(tensors: Sequence[te.Tensor]) -> tvm.IRModule:
    """The module whose one function, "main", computes the last tensor from the others; its buffers do not alias."""
    func = te.create_prim_func(list(tensors)).with_attr({"global_symbol": "main", "tirx.noalias": True})
    module = tvm.IRModule({"main": func})
    rounded = any(tensor.dtype == "uint16" for tensor in tensors)
    return rounding.provide(module, tensors[-1].op.name) if rounded else module


def schedule_of(module: tvm.IRModule) -> Schedule:
    """A traced Schedule of a module that has not been scheduled yet."""
    return Schedule(module, debug_mask="none")


def parallelise(sch: Schedule, loop: Any, cores: int, device_cores: int, *, even: bool = False) -> Any:
    """Spread ``loop`` over ``cores`` of the device's cores; returns the loop that runs inside one chunk.

    One core means no parallel launch at all; all cores leave the chunking to whoever lowers the loop
    (``tuner.build.dividing``; TVM itself makes contiguous, even chunks). With ``even`` no condition comes into the
    loop: all chunks are of one length, fewer than cores if it does not divide.
    """
    if cores == 1:
        return loop
    if cores >= device_cores:
        sch.parallel(loop)
        return loop
    extent = int(sch.get(loop).extent)
    strides = _strides(sch.get(loop))
    # A chunk that cuts through an inner loop makes indices that TVM cannot prove affine; it then refuses to vectorise.
    length = next(
        n for n in range(-(-extent // cores), extent + 1)
        if n == extent or (all(n % s == 0 or s % n == 0 for s in strides) and not (even and extent % n))
    )  # fmt: skip
    outer, inner = sch.split(loop, [-(-extent // length), length])
    sch.parallel(outer)
    sch.annotate(inner, CHUNK, 1)
    return inner


def _strides(loop: Any) -> set[int]:
    """Divisors by which the indices of the blocks right inside ``loop`` take its (fused) variable apart."""
    found: set[int] = set()

    def reads(node: Any) -> bool:
        """Whether an index depends on the loop; collects divisors on the way."""
        if isinstance(node, tirx.Var):
            return bool(node.same_as(loop.loop_var))
        if not hasattr(node, "a"):
            return False
        inside = [reads(node.a), reads(node.b)]
        if inside[0] and isinstance(node, tirx.FloorDiv | tirx.FloorMod) and isinstance(node.b, tirx.IntImm):
            found.add(int(node.b))
        return any(inside)

    todo = [loop.body]
    while todo:
        statement = todo.pop()
        if hasattr(statement, "iter_values"):
            for index in statement.iter_values:
                reads(index)
        elif isinstance(statement, tirx.SeqStmt):
            todo.extend(statement.seq)
        elif isinstance(statement, tirx.For):
            todo.append(statement.body)
    return found


def divisors(n: int, limit: int) -> list[int]:
    """Divisors of ``n`` up to ``limit``, ascending."""
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]
