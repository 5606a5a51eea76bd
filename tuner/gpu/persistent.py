"""A kernel on some of a GPU's SMs: as many blocks as fit on those, each doing the work of several.

Which SMs that are is the hardware's choice; a kernel that runs beside it finds the others free.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from tuner.errors import CandidateError

_GRID = "blockIdx."
_FULLNESS = 0.5  # share of the blocks allowed that an even division must reach at least


def limited(function: Any, blocks: int) -> Any:
    """A scheduled PrimFunc of whose launches none has more than ``blocks`` blocks.

    The grid is divided evenly, because a barrier may not stand under a condition.

    Raises CandidateError (``rejected``) for grids of several axes and those that no number near ``blocks`` divides.
    """
    root = getattr(function.body, "block", None)
    if root is None:
        raise CandidateError("Its outermost statement is no block.", code="rejected")
    body = _statement(root.body, blocks)
    block = SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init, root.alloc_buffers,
                   root.match_buffers, root.annotations)  # fmt: skip
    return function.with_body(SBlockRealize(function.body.iter_values, function.body.predicate, block))


def _statement(statement: Any, blocks: int) -> Any:
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_statement(part, blocks) for part in statement.seq])
    binding = getattr(statement, "thread_binding", None)
    if binding is None or str(binding.thread_tag) != f"{_GRID}x" or _has_grid(statement.body):
        raise CandidateError("Its grid is not of one axis.", code="rejected")
    return _launch(statement, blocks)


def _launch(loop: Any, blocks: int) -> Any:
    extent = int(loop.extent)
    if extent <= blocks:
        return loop
    fewer = max(n for n in range(1, blocks + 1) if extent % n == 0)
    if fewer < _FULLNESS * blocks:
        raise CandidateError(f"A grid of {extent} blocks does not divide into about {blocks}.", code="rejected")
    kind = loop.loop_var.ty
    block, turn = tirx.Var(f"{loop.loop_var.name}_persistent", kind), tirx.Var("turn", kind)
    index = loop.min + turn * fewer + block
    inner = tvm_ffi.structural_map(loop.body, (tirx.Var, lambda v: index if v.same_as(loop.loop_var) else v))
    turns = tirx.For(turn, 0, extent // fewer, tirx.ForKind.SERIAL, inner)
    axis = tirx.IterVar(None, tirx.Var("", kind), tirx.IterVar.ThreadIndex, f"{_GRID}x")
    return tirx.For(block, 0, fewer, loop.kind, turns, axis, loop.annotations)


def _has_grid(statement: Any) -> bool:
    tags: list[str] = []

    def see(loop: Any) -> None:
        if loop.thread_binding is not None:
            tags.append(str(loop.thread_binding.thread_tag))

    tvm_ffi.structural_walk(statement, (tirx.For, see))
    return any(tag.startswith(_GRID) for tag in tags)
