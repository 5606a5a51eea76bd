"""A chain's first convolution computed on the border that the second one reads as zeros, too.

TVM pads what is computed; computing what is padded asks no questions in the innermost loops, and tiles then lie where
their size is known. The border's values are zeroed on their way into the image as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from tuner.designs.convolution import Convolution


def widened(module: Any, before: int | None, total: int, image: int, convolution: Convolution) -> Any:
    """The module with the sum that ``convolution`` tells of as large as the image behind it.

    ``before``, ``total`` and ``image`` are places among the stages of "main": what pads the sum's input, the sum, what
    pads its result. Where there is no border, or nothing that pads its input, the module stays.
    """
    function = module["main"]
    root = function.body.block
    stages = list(root.body.seq)
    margin, size = _margin(_block(stages[image]), convolution)
    if before is None or not any(margin):
        return module
    rows = 2 if convolution.axis == 1 else 1
    made = _resized(_block(stages[total]).writes[0].source, rows, size)
    reach = convolution.extent(*size)
    data = _resized(convolution.data, rows, reach)
    old = _block(stages[total]).writes[0].source
    shift = [0] * 4
    shift[rows : rows + 2] = margin
    stages[total] = _wider(stages[total], convolution, old, made, data, size)
    stages[before] = _padding(stages[before], data, [s * d for s, d in zip(margin, convolution.strides, strict=True)],
                              rows)  # fmt: skip
    for number in range(total + 1, len(stages)):
        stages[number] = _moved(stages[number], old, made, shift)
    replaced = {old: made, convolution.data: data}
    buffers = [replaced.get(buffer, buffer) for buffer in root.alloc_buffers]
    block = SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, tirx.SeqStmt(stages), root.init, buffers,
                   root.match_buffers, root.annotations)  # fmt: skip
    return tvm.IRModule({"main": function.with_body(SBlockRealize([], True, block))})


def _margin(image: Any, convolution: Convolution) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many rows and columns of zeros an image has in front of what is computed; its size."""
    rows = 2 if convolution.axis == 1 else 1
    axes = [v.var for v in image.iter_vars]
    size = int(image.iter_vars[rows].dom.extent), int(image.iter_vars[rows + 1].dom.extent)
    loads: list[Any] = []
    tvm_ffi.structural_walk(image.body.value, (ir.TensorLoad, loads.append))
    for load in loads:
        if len(load.indices) != 4 or tuple(int(n) for n in load.source.shape[rows : rows + 2]) != convolution.size:
            continue
        found = [tvm.sym.detect_linear_equation(load.indices[k], axes) for k in (rows, rows + 1)]
        if all(len(terms) == 5 and isinstance(terms[-1], tirx.IntImm) for terms in found):
            return (-int(found[0][-1]), -int(found[1][-1])), size
    return (0, 0), size


def _resized(buffer: Any, rows: int, size: tuple[int, int]) -> Any:
    shape = [int(n) for n in buffer.shape]
    shape[rows : rows + 2] = size
    return tirx.decl_buffer([tirx.const(n, "int64") for n in shape], str(buffer.dtype), buffer.name)


def _wider(
    nest: Any, convolution: Convolution, old: Any, made: Any, data: Any, size: tuple[int, int]
) -> Any:  # fmt: skip
    block = _block(nest)
    wanted = dict(zip(convolution.order[2:4], size, strict=True))

    def buffers(node: Any) -> Any:
        return _with_buffers(node, {old: made, convolution.data: data})

    axes = [
        tirx.IterVar(_span(wanted[k]), v.var, v.iter_type) if k in wanted else v for k, v in enumerate(block.iter_vars)
    ]
    inner = SBlock(axes, [_region(r, {old: made, convolution.data: data}) for r in block.reads],
                   [_region(r, {old: made}) for r in block.writes], block.name_hint, buffers(block.body),
                   buffers(block.init), [], [], block.annotations)  # fmt: skip
    return _nest(axes, inner)


def _padding(nest: Any, data: Any, shift: Sequence[int], rows: int) -> Any:
    """The stage that pads the input, ``shift`` rows and columns further inside; zeros where it had nothing."""
    block = _block(nest)
    old = [v.var for v in block.iter_vars]
    axes = [tirx.IterVar(_span(int(n)), tirx.Var(v.var.name, v.var.ty), v.iter_type)
            for v, n in zip(block.iter_vars, data.shape, strict=True)]  # fmt: skip
    fresh = [axis.var for axis in axes]
    moved = list(fresh)
    inside = None
    for k, by in enumerate(shift, rows):
        moved[k] = fresh[k] - by
        extent = int(block.iter_vars[k].dom.extent)
        for part in (tirx.const(by, "int64") <= fresh[k], fresh[k] < tirx.const(by + extent, "int64")):
            inside = part if inside is None else tirx.And(inside, part)
    names = dict(zip(old, moved, strict=True))
    value = tvm_ffi.structural_map(block.body.value, (tirx.Var, lambda v: names.get(v, v)))
    zero = tirx.const(0, str(data.dtype))
    reads = [tvm_ffi.structural_map(r, (tirx.Var, lambda v: names.get(v, v))) for r in block.reads]
    store = tirx.BufferStore(data, tirx.if_then_else(inside, value, zero), fresh)
    writes = [tirx.BufferRegion(data, [ir.Range.from_min_extent(v, tirx.const(1, "int64")) for v in fresh])]
    return _nest(axes, SBlock(axes, reads, writes, block.name_hint, store, None, [], [], block.annotations))


def _moved(nest: Any, old: Any, made: Any, shift: Sequence[int]) -> Any:
    """A stage that reads the sum, if it does, where it now lies."""

    def load(node: Any) -> Any:
        if not node.source.same_as(old):
            return node
        return tirx.BufferLoad(made, [i + by if by else i for i, by in zip(node.indices, shift, strict=True)])

    block = _block(nest)
    if not any(region.source.same_as(old) for region in block.reads):
        return nest
    body = tvm_ffi.structural_map(block.body, (ir.TensorLoad, load))
    reads = [
        tirx.BufferRegion(made, [ir.Range.from_min_extent(part.min + by, part.extent)
                                 for part, by in zip(region.region, shift, strict=True)])
        if region.source.same_as(old) else region
        for region in block.reads
    ]  # fmt: skip
    inner = SBlock(block.iter_vars, reads, block.writes, block.name_hint, body, None, [], [], block.annotations)
    return _nest(list(block.iter_vars), inner)


def _with_buffers(node: Any, buffers: dict[Any, Any]) -> Any:
    def load(each: Any) -> Any:
        return tirx.BufferLoad(buffers[each.source], each.indices) if each.source in buffers else each

    value = tvm_ffi.structural_map(node.value, (ir.TensorLoad, load))
    return tirx.BufferStore(buffers.get(node.buffer, node.buffer), value, node.indices)


def _region(region: Any, buffers: dict[Any, Any]) -> Any:
    return tirx.BufferRegion(buffers[region.source], region.region) if region.source in buffers else region


def _nest(axes: Sequence[Any], block: Any) -> Any:
    loops = [tirx.Var(f"i{k}", "int64") for k in range(len(axes))]
    body: Any = SBlockRealize(loops, True, block)
    for loop, axis in reversed(list(zip(loops, axes, strict=True))):
        body = tirx.For(loop, tirx.const(0, "int64"), axis.dom.extent, tirx.ForKind.SERIAL, body)
    return body


def _span(extent: int) -> Any:
    return ir.Range.from_min_extent(tirx.const(0, "int64"), tirx.const(extent, "int64"))


def _block(nest: Any) -> Any:
    while isinstance(nest, tirx.For):
        nest = nest.body
    return nest.block
