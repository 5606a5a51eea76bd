"""Stages that compute a single number, which TVM's schedules do not inline: put where that number is read."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize


def without_scalars(function: Any) -> Any:
    """A PrimFunc, not yet scheduled, without stages whose result has no dimensions; its result stays."""
    root = function.body.block
    if not isinstance(root.body, tirx.SeqStmt):
        return function
    known: dict[Any, Any] = {}
    stages = []
    for stage in root.body.seq:
        block = _block(stage)
        body = block.body
        if any(region.source in known for region in block.reads):
            body = tvm_ffi.structural_map(body, (ir.TensorLoad, lambda load: known.get(load.source, load)))
        made = block.writes[0].source
        if isinstance(body, tirx.BufferStore) and not made.shape and made in list(root.alloc_buffers):
            known[made] = body.value
            continue
        stages.append(stage if body is block.body else _rebuilt(stage, _with_body(block, body)))
    if not known:
        return function
    body = tirx.SeqStmt(stages) if len(stages) > 1 else stages[0]
    buffers = [buffer for buffer in root.alloc_buffers if buffer not in known]
    block = SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init, buffers,
                   root.match_buffers, root.annotations)  # fmt: skip
    return function.with_body(SBlockRealize([], True, block))


def _with_body(block: Any, body: Any) -> Any:
    loads: list[Any] = []
    tvm_ffi.structural_walk(body.value, (ir.TensorLoad, loads.append))
    one = tirx.const(1, "int64")
    reads = [
        tirx.BufferRegion(load.source, [ir.Range.from_min_extent(index, one) for index in load.indices])
        for load in loads
    ]
    return SBlock(block.iter_vars, reads, block.writes, block.name_hint, body, block.init, [], [], block.annotations)


def _rebuilt(nest: Any, block: Any) -> Any:
    if isinstance(nest, tirx.For):
        inner = _rebuilt(nest.body, block)
        return tirx.For(nest.loop_var, nest.min, nest.extent, nest.kind, inner, nest.thread_binding, nest.annotations)
    return SBlockRealize(nest.iter_values, nest.predicate, block)


def _block(nest: Any) -> Any:
    while isinstance(nest, tirx.For):
        nest = nest.body
    return nest.block
