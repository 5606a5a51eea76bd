"""A GPU kernel's schedule run on the CPU: every loop of a scheduled function, threads included, one after the other.

What is checked is the schedule: tiles, copies to shared memory, thread indices, predicates. A schedule means the same
with its thread axes as plain loops, and barriers are then met by order. What tensor cores compute is left as the loops
they replace, and what the CUDA compiler makes of the code is not seen.

Where blocks compute some numbers twice, each of them finds NaN wherever it has not written itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from tuner.designs.hoisting import OVERLAPPING
from tuner.errors import CandidateError

_BLOCK, _THREAD = "blockIdx.", "threadIdx."


@dataclass(frozen=True)
class Emulated:
    """A scheduled function as CPU code; ``run`` takes the arguments of the original."""

    library: Any
    scratch: tuple[tuple[tuple[int, ...], str], ...]  # shape and dtype of each buffer that the kernel had to itself

    def run(self, inputs: Sequence[np.ndarray], shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """The output for these inputs. What was never written is NaN in it, and so is what came of reading such."""
        out = tvm.runtime.tensor(_blank(shape, dtype))
        scratch = [tvm.runtime.tensor(_blank(*each)) for each in self.scratch]
        self.library["main"](*(tvm.runtime.tensor(np.asarray(x, order="C")) for x in inputs), out, *scratch)
        return np.asarray(out.numpy())


def emulate(function: Any, target: Any) -> Emulated:
    """Code for the CPU ``target`` of what a PrimFunc, scheduled as design spaces and dlight do it, does on a GPU.

    Raises CandidateError (``not-emulated``) for functions with statements that this does not know.
    """
    root = getattr(function.body, "block", None)
    if root is None or root.init is not None or len(root.match_buffers):
        raise CandidateError("Its outermost block is no plain one.", code="not-emulated")
    alone = bool(function.attrs) and OVERLAPPING in function.attrs
    body = _Serial(root.alloc_buffers if alone else None).statement(root.body, {})
    plain = SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, body, None, [], [], {})
    # Buffers of the kernel become arguments: whole ones, in which a tile stays where it was copied to, so that the
    # copies, which every thread would repeat, are made by each block's first thread alone.
    serial = tirx.PrimFunc([*function.params, *root.alloc_buffers], SBlockRealize([], True, plain), function.ret_type)
    serial = serial.with_attr({"global_symbol": "main", "tirx.noalias": True})
    if alone:  # else LLVM 22 takes x[i % 8] for 16 lanes that lie side by side, where its vectoriser may gather (Zen 4)
        target = tvm.target.Target({**target.export(), "opt-level": 1})
    library = tvm.compile(tvm.IRModule({"main": serial}), target=target)
    scratch = tuple((tuple(int(n) for n in b.shape), str(b.dtype)) for b in root.alloc_buffers)
    return Emulated(library, scratch)


def emptied(function: Any) -> int:
    """Numbers that are overwritten for each block of threads."""
    if not function.attrs or OVERLAPPING not in function.attrs:
        return 0
    return sum(int(np.prod([int(n) for n in b.shape])) for b in function.body.block.alloc_buffers)


class _Serial:
    """``alone``: buffers that each block of threads finds empty, one block running after the other; None: they share
    them, because none writes where another does.
    """

    def __init__(self, alone: Sequence[Any] | None) -> None:
        self._alone = alone

    def statement(self, statement: Any, outer: Mapping[str, Any]) -> Any:
        """``statement`` with thread axes as loops; ``outer``: variable and first value of those around it, by tag."""
        if isinstance(statement, tirx.For):
            return self._loop(statement, outer)
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([self.statement(part, outer) for part in statement.seq])
        if isinstance(statement, tirx.IfThenElse):
            otherwise = statement.else_case
            return tirx.IfThenElse(
                statement.condition, self.statement(statement.then_case, outer),
                None if otherwise is None else self.statement(otherwise, outer),
            )  # fmt: skip
        if isinstance(statement, SBlockRealize):
            block = statement.block
            inner = SBlock(
                block.iter_vars, block.reads, block.writes, block.name_hint, self.statement(block.body, outer),
                block.init, block.alloc_buffers, block.match_buffers, {},
            )  # fmt: skip
            return SBlockRealize(statement.iter_values, statement.predicate, inner)
        return statement

    def _loop(self, loop: Any, outer: Mapping[str, Any]) -> Any:
        binding = loop.thread_binding
        if binding is None:
            body = self.statement(loop.body, outer)
            return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, body)
        tag = str(binding.thread_tag)
        parallel = tag.startswith(_BLOCK) and not outer and self._alone is None
        kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
        inner = self.statement(loop.body, {tag: (loop.loop_var, loop.min), **outer})
        plain = tirx.For(loop.loop_var, loop.min, loop.extent, kind, inner)
        if tag not in outer:
            outermost = tag.startswith(_THREAD) and not any(name.startswith(_THREAD) for name in outer)
            if self._alone and outermost:
                return tirx.SeqStmt([*(_emptied(buffer) for buffer in self._alone), plain])
            return plain
        first = None  # an axis opened again inside itself: a copy that all threads share out among themselves
        for name, (variable, start) in outer.items():
            if not name.startswith(_BLOCK):
                here = tirx.EQ(variable, start)
                first = here if first is None else tirx.And(first, here)
        return tirx.IfThenElse(first, plain, None)


def _emptied(buffer: Any) -> Any:
    axes = [tirx.Var(f"e{k}", "int64") for k in range(len(buffer.shape))]
    loops = [tirx.Var(f"l{k}", "int64") for k in range(len(buffer.shape))]
    store = tirx.BufferStore(buffer, tirx.const(float("nan"), str(buffer.dtype)), axes)
    spans = [tvm.ir.Range(0, tirx.const(int(n), "int64")) for n in buffer.shape]
    iterated = [tirx.IterVar(span, axis, tirx.IterVar.DataPar) for span, axis in zip(spans, axes, strict=True)]
    empty = SBlock(iterated, [], [], f"{buffer.name}_emptied", store, None, [], [], {})
    body: Any = SBlockRealize(loops, True, empty)
    for loop, extent in reversed(list(zip(loops, buffer.shape, strict=True))):
        body = tirx.For(loop, tirx.const(0, "int64"), tirx.const(int(extent), "int64"), tirx.ForKind.SERIAL, body)
    return body


def _blank(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.full(shape, np.nan if dtype.startswith("float") else -1, dtype)
