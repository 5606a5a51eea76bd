"""What a scheduled GPU function does, counted: launches, blocks, threads, operations, bytes moved and held.

Read off the loops of the function as MetaSchedule or dlight left it, before any lowering. Virtual threads count as
loops; predicates as if they always held, so that partial tiles are somewhat overrated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir.stmt import SBlockRealize

from tuner.gpu.spec import WARP

SHARED, LOCAL, GLOBAL = "shared", "local", "global"
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Max", "Min")
_TENSOR = "tensor"
_FRAGMENTS = ("wmma.", "m16n8k8.", "warp")  # scopes of what tensor cores read and write
_ACCUMULATORS = ("wmma.accumulator", "m16n8k8.matrixC", "warp")  # no other fragments are computed into
_PIPELINE = "software_pipeline_stage"


@dataclass(frozen=True)
class Counts:
    """One call of a kernel, all its launches together. Bytes, floating-point operations (a multiply-add is two)."""

    launches: int = 0
    blocks: int = 1  # of the largest launch
    threads: int = 1  # of a block, the largest launch
    operations: float = 0.0
    tensor_operations: float = 0.0  # of these, on tensor cores
    global_bytes: float = 0.0  # that threads read and write, repeated ones included
    shared_bytes: float = 0.0  # likewise, of shared memory
    shared: int = 0  # B of shared memory that a block holds, as far as its copies show
    local: int = 0  # numbers that a thread keeps from one loop to the next: registers, if all goes well

    def vector(self) -> list[float]:
        """The counts as features of a model, on a logarithmic scale."""
        values = (self.launches, self.blocks, self.threads, self.operations, self.tensor_operations,
                  self.global_bytes, self.shared_bytes, self.shared, self.local)  # fmt: skip
        return [float(np.log1p(v)) for v in values]


@dataclass(frozen=True)
class _Place:
    """Where in the loops a statement stands."""

    times: float = 1.0  # it runs, over all threads
    tile: float = 1.0  # of these since the last sequence of statements: what one copy moves, over all threads
    axes: Mapping[str, int] = field(default_factory=dict)  # thread axes open around it -> extent
    copies: int = 1  # of each tile in shared memory, where a loop is pipelined
    together: bool = False  # all threads of a block share the work out among themselves


def counts_of(function: Any) -> Counts:
    """Count a scheduled PrimFunc."""
    counter = _Counter()
    counter.walk(function.body, _Place())
    return counter.result()


class _Counter:
    def __init__(self) -> None:
        self._sums = dict.fromkeys(("operations", _TENSOR, GLOBAL, SHARED), 0.0)
        self._launches: list[dict[str, int]] = []
        self._shared: dict[Any, int] = {}
        self._local: dict[Any, float] = {}

    def result(self) -> Counts:
        grids = [
            (prod(e for a, e in axes.items() if a.startswith("blockIdx")),
             prod(e for a, e in axes.items() if a.startswith("threadIdx")))
            for axes in self._launches
        ]  # fmt: skip
        return Counts(
            launches=len(grids),
            blocks=max((blocks for blocks, _ in grids), default=1),
            threads=max((threads for _, threads in grids), default=1),
            operations=self._sums["operations"], tensor_operations=self._sums[_TENSOR],
            global_bytes=self._sums[GLOBAL], shared_bytes=self._sums[SHARED],
            shared=sum(self._shared.values()), local=int(sum(self._local.values())),
        )  # fmt: skip

    def walk(self, statement: Any, place: _Place) -> None:
        if isinstance(statement, tirx.For):
            self._loop(statement, place)
        elif isinstance(statement, tirx.SeqStmt):
            for part in statement.seq:
                self.walk(part, replace(place, tile=1.0))
        elif isinstance(statement, SBlockRealize):
            self.walk(statement.block.body, place)
        elif isinstance(statement, tirx.IfThenElse):
            self.walk(statement.then_case, place)
            if statement.else_case is not None:
                self.walk(statement.else_case, place)
        elif isinstance(statement, tirx.BufferStore):
            self._store(statement, place)

    def _loop(self, loop: Any, place: _Place) -> None:
        extent = int(loop.extent)
        stages = loop.annotations.get(_PIPELINE) if loop.annotations else None
        copies = place.copies if stages is None else 1 + max(int(stage) for stage in stages)
        binding = loop.thread_binding
        times, axes, together = place.times * extent, dict(place.axes), place.together
        if binding is not None:
            tag = str(binding.thread_tag)
            if not axes:
                self._launches.append(axes)
            if tag in axes:  # opened again: what stands in it runs once for the block, its virtual threads included
                virtual = 1 if together else prod(e for a, e in axes.items() if a.startswith("vthread"))
                times, together = times / (axes[tag] * virtual), True
            else:
                axes[tag] = extent
                for known in self._launches[-1:]:
                    known[tag] = max(known.get(tag, 1), extent)
        self.walk(loop.body, _Place(times, place.tile * extent, axes, copies, together))

    def _store(self, store: Any, place: _Place) -> None:
        scope, size = str(store.buffer.scope()), _bytes(store.buffer)
        operations = place.times * _operations(store.value)
        self._sums["operations"] += operations
        if scope.startswith(_ACCUMULATORS):
            self._sums[_TENSOR] += operations
        for source in _loads(store.value):
            if not source.shape:
                continue  # a single number: all threads read it, and keep it
            self._move(str(source.scope()), place.times * _bytes(source))
        self._move(scope, place.times * size)
        if scope.startswith(SHARED):
            self._shared[store.buffer] = max(
                self._shared.get(store.buffer, 0), round(place.tile * size) * place.copies
            )  # fmt: skip
        elif scope.startswith((LOCAL, *_FRAGMENTS)):
            virtual = prod(e for a, e in place.axes.items() if a.startswith("vthread"))
            share = size / 4 / WARP if scope.startswith(_FRAGMENTS) else 1  # a warp's threads hold a fragment together
            self._local[store.buffer] = min(self._local.get(store.buffer, np.inf), place.tile * virtual * share)

    def _move(self, scope: str, amount: float) -> None:
        if scope == GLOBAL:
            self._sums[GLOBAL] += amount
        elif scope.startswith(SHARED):
            self._sums[SHARED] += amount


def _loads(value: Any) -> list[Any]:
    """The buffers that an expression reads, once for each time it does."""
    found: list[Any] = []
    tvm_ffi.structural_walk(value, (ir.TensorLoad, lambda load: found.append(load.source)))
    return found


def _operations(value: Any) -> int:
    """Floating-point operations of an expression; functions such as exp count as one."""
    count = 0

    def see(node: Any) -> None:
        nonlocal count
        name = type(node).__name__
        if (name in _ARITHMETIC or name == "Call") and str(node.ty).startswith(("float", "bfloat")):
            count += not (name == "Call" and "if_then_else" in str(node.op))

    tvm_ffi.structural_walk(value, (ir.Expr, see))
    return count


def _bytes(buffer: Any) -> int:
    name = str(buffer.dtype)
    return 2 if name.startswith("bfloat16") else np.dtype(name).itemsize
