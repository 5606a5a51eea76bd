"""What TVM's schedules cannot say of sums whose tiles overlap: zero them before their loops, skip idle threads' work.

``decompose_reduction`` wants tiles that do not overlap, and the halo of a chain's image does; and a stage beside
another in loops that do not divide evenly runs beyond their end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

OVERLAPPING = "fusetune.overlapping"  # the mark of functions whose blocks of threads compute some numbers twice


@dataclass(frozen=True)
class Guard:
    """A stage's work of which each thread has a share: ``outer`` times the threads plus ``thread`` below ``total``."""

    outer: Any  # tirx.For
    thread: Any  # tirx.For: the loop whose body is guarded
    total: int


def finished(function: Any, sums: Sequence[Any], guards: Sequence[Guard]) -> Any:
    """A scheduled PrimFunc in which each sum is zeroed in front of its outermost loop, and ``guards`` hold.

    ``sums`` are these loops; loops are found by their variables.
    """
    body = _Finishing({s.loop_var: s for s in sums}, {g.thread.loop_var: g for g in guards}).statement(function.body)
    return function.with_body(body).with_attr(OVERLAPPING, 1)


class _Finishing:
    def __init__(self, sums: Mapping[Any, Any], guards: Mapping[Any, Guard]) -> None:
        self._sums, self._guards = sums, guards

    def statement(self, statement: Any) -> Any:
        if isinstance(statement, tirx.For):
            return self._loop(statement)
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([self.statement(part) for part in statement.seq])
        if isinstance(statement, SBlockRealize):
            block = statement.block
            inner = SBlock(
                block.iter_vars, block.reads, block.writes, block.name_hint, self.statement(block.body), block.init,
                block.alloc_buffers, block.match_buffers, block.annotations,
            )  # fmt: skip
            return SBlockRealize(statement.iter_values, statement.predicate, inner)
        return statement

    def _loop(self, loop: Any) -> Any:
        inner = self.statement(loop.body)
        if (guard := self._guards.get(loop.loop_var)) is not None:
            number = guard.outer.loop_var * int(loop.extent) + loop.loop_var
            if int(guard.outer.extent) * int(loop.extent) > guard.total:
                inner = tirx.IfThenElse(number < guard.total, inner, None)
        if loop.loop_var not in self._sums:
            return _with_body(loop, inner)
        return tirx.SeqStmt([_zeroing(loop), _once_asked(_with_body(loop, _without_init(inner)))])


def _once_asked(statement: Any) -> Any:
    """A sum's nest with what of its predicate none of its loops changes in front of them, stages before it left out."""
    loops: list[Any] = []
    inner = statement
    while isinstance(inner, tirx.For):
        loops.append(inner)
        inner = inner.body
    if isinstance(inner, tirx.SeqStmt):  # stages that all threads take part in: past them, then
        parts = [*list(inner.seq)[:-1], _once_asked(inner.seq[len(inner.seq) - 1])]
        return _nest(loops, tirx.SeqStmt(parts))
    changing = {loop.loop_var for loop in loops}
    parts = _conjuncts(inner.predicate)
    fixed = [part for part in parts if not changing & _variables([part])]
    rest = [part for part in parts if changing & _variables([part])]
    nest = _nest(loops, SBlockRealize(inner.iter_values, _all(rest), inner.block))
    return tirx.IfThenElse(_all(fixed), nest, None) if fixed and not _trivial(fixed) else nest


def _nest(loops: Sequence[Any], body: Any) -> Any:
    for loop in reversed(loops):
        body = _with_body(loop, body)
    return body


def _all(conditions: Sequence[Any]) -> Any:
    found = conditions[0] if conditions else tirx.IntImm("bool", 1)
    for condition in conditions[1:]:
        found = tirx.And(found, condition)
    return found


def _trivial(conditions: Sequence[Any]) -> bool:
    return all(isinstance(condition, tirx.IntImm) for condition in conditions)


def _with_body(loop: Any, body: Any) -> Any:
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations)


def _zeroing(nest: Any) -> Any:
    """The loops of a sum's nest that its result has, around what sets that to zero."""
    loops: list[Any] = []
    realize = _innermost(nest, loops)
    block = realize.block
    kept = [k for k, v in enumerate(block.iter_vars) if int(v.iter_type) == tirx.IterVar.DataPar]
    values = [realize.iter_values[k] for k in kept]
    used = _variables([*values])
    mine = [loop for loop in loops if loop.loop_var in used]
    summed = {loop.loop_var for loop in loops} - {loop.loop_var for loop in mine}
    fresh = {loop.loop_var: tirx.Var(f"{loop.loop_var.name}_init", loop.loop_var.ty) for loop in mine}
    names = {block.iter_vars[k].var: tirx.Var(f"{block.iter_vars[k].var.name}_init", block.iter_vars[k].var.ty)
             for k in kept}  # fmt: skip
    store = _renamed(block.init, names)
    axes = [tirx.IterVar(block.iter_vars[k].dom, names[block.iter_vars[k].var], tirx.IterVar.DataPar) for k in kept]
    writes = [_renamed(region, names) for region in block.writes]
    inner = SBlock(axes, [], writes, f"{block.name_hint}_init", store, None, [], [], {})
    parts = [part for part in _conjuncts(realize.predicate) if not summed & _variables([part])]
    made: Any = SBlockRealize([_renamed(v, fresh) for v in values], _renamed(_all(parts), fresh), inner)
    for loop in reversed(mine):
        made = tirx.For(fresh[loop.loop_var], loop.min, loop.extent, loop.kind, made, None, {})
    return made


def _innermost(statement: Any, loops: list[Any]) -> Any:
    """The one block within a nest of loops, which are appended; other stages come before it in a sequence."""
    while not isinstance(statement, SBlockRealize):
        if isinstance(statement, tirx.SeqStmt):
            statement = statement.seq[len(statement.seq) - 1]
        else:
            loops.append(statement)
            statement = statement.body
    return statement


def _without_init(statement: Any) -> Any:
    """The nest with its sum no longer zeroed within."""
    if isinstance(statement, tirx.For):
        return _with_body(statement, _without_init(statement.body))
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([*list(statement.seq)[:-1], _without_init(statement.seq[len(statement.seq) - 1])])
    block = statement.block
    inner = SBlock(block.iter_vars, block.reads, block.writes, block.name_hint, block.body, None, block.alloc_buffers,
                   block.match_buffers, block.annotations)  # fmt: skip
    return SBlockRealize(statement.iter_values, statement.predicate, inner)


def _conjuncts(condition: Any) -> list[Any]:
    if isinstance(condition, tirx.And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]


def _variables(expressions: Sequence[Any]) -> set[Any]:
    found: set[Any] = set()
    for expression in expressions:
        tvm_ffi.structural_walk(expression, (tirx.Var, found.add))
    return found


def _renamed(node: Any, names: Mapping[Any, Any]) -> Any:
    return tvm_ffi.structural_map(node, (tirx.Var, lambda v: names.get(v, v)))
