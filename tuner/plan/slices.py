"""Slices that need no kernel: what is cut out lies whole in memory, and is read where it is.

That is so where nothing but ones stands before the axis that is cut, and the cut begins at a multiple of 64 bytes; in a
blocked layout images are cut off, or channels at the beginning of a block. Behind the end of the last block's channels
then lie other channels, which are finite like any padding. Knows the Graph only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tuner.graph.ir import Graph, Layer
from tuner.plan.layout import block_of, element_bytes, physical_shape

ALIGNMENT = 64  # bytes; what kernels assume of a tensor's address
SLICE = "Slice"


@dataclass(frozen=True)
class Cut:
    """Every ``step``-th element from ``start`` to ``stop`` (excluded) along one axis, 0 <= start < stop."""

    axis: int
    start: int
    stop: int
    step: int = 1


def cut_of(graph: Graph, layer: Layer) -> Cut | None:
    """What a Slice cuts; None if it is none that ``cuts_of`` knows, or does not cut one axis."""
    cuts = cuts_of(graph, layer)
    return cuts[0] if cuts is not None and len(cuts) == 1 else None


def cuts_of(graph: Graph, layer: Layer) -> tuple[Cut, ...] | None:
    """What a Slice cuts, axis by axis; None if it is no Slice, goes backwards, or its bounds are unknown."""
    if layer.op != SLICE or layer.domain or len(layer.inputs) < 3 or layer.inputs[0] not in graph.tensors:
        return None
    shape = graph.tensors[layer.inputs[0]].shape
    given = [graph.constants[n].value if n in graph.constants else None for n in layer.inputs[1:]]
    starts, stops = given[0], given[1]
    if starts is None or stops is None or any(n and v is None for n, v in zip(layer.inputs[1:], given, strict=True)):
        return None
    axes = (given[2] if len(given) > 2 else None) or range(len(starts))
    steps = (given[3] if len(given) > 3 else None) or (1,) * len(starts)
    found = []
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        axis, extent = int(axis) % len(shape), shape[int(axis)]
        first, last = (min(max(int(v) + (extent if v < 0 else 0), 0), extent) for v in (start, stop))
        if step < 1 or first >= last:
            return None
        if (first, last, step) != (0, extent, 1):
            found.append(Cut(axis, first, last, int(step)))
    return tuple(found)


def offset_of(graph: Graph, layer: Layer, layout: str) -> int | None:
    """Bytes from the beginning of a Slice's input, in ``layout``, to its result; None if it has to be copied."""
    cut = cut_of(graph, layer)
    if cut is None or cut.step > 1:
        return None
    source = graph.tensors[layer.inputs[0]]
    block = block_of(layout)
    if source.dtype != "float32" or prod(source.shape[: cut.axis]) != 1 or (block and cut.axis > 1):
        return None
    physical = physical_shape(source.shape, layout)
    each = block if block and cut.axis == 1 else 1
    if cut.start % each:
        return None
    offset = cut.start // each * prod(physical[cut.axis + 1 :]) * element_bytes(layout)
    return offset if offset % ALIGNMENT == 0 else None


def in_place(graph: Graph, layer: Layer, layout: str) -> bool:
    """Whether a Slice of a tensor in ``layout``, its result in the same, needs no kernel.

    Of the model's inputs, whose memory is the user's, what is cut out is copied.
    """
    return layer.inputs[0] in graph.producer and offset_of(graph, layer, layout) is not None


def hanging(graph: Graph, layer: Layer, layout: str) -> tuple[tuple[str, ...], str]:
    """The first parts of a Concat, if they are what a wider tensor ends with, or the last, if it begins with them.

    Returns:
        These parts, and the wider tensor; nothing and "" if there are none.
    """
    names, axis = layer.inputs, layer.attr("axis") % len(graph.tensors[layer.outputs[0]].shape)
    if len(set(names)) < len(names):
        return (), ""
    for run in (names, names[::-1]):
        first = graph.producer.get(run[0])
        if first is None or first.op != SLICE:
            continue
        wider, found, at = first.inputs[0], list[str](), None
        for name in run:
            maker = graph.producer.get(name)
            cut = None if maker is None or maker.inputs[:1] != (wider,) else cut_of(graph, maker)
            if cut is None or maker is None or cut.axis != axis or not in_place(graph, maker, layout):
                break
            near, far = (cut.start, cut.stop) if run is names else (cut.stop, cut.start)
            if at not in {None, near}:
                break
            found, at = [*found, name], far
        if at is not None and at == (0 if run is not names else _whole(graph, wider, axis, at, layout)):
            return tuple(found), wider
    return (), ""


def _whole(graph: Graph, tensor: str, axis: int, stop: int, layout: str) -> int:
    """``stop``, if nothing but padding lies behind it; else a tensor's extent along an axis."""
    block, extent = (block_of(layout) if axis == 1 else 0) or 1, graph.tensors[tensor].shape[axis]
    return stop if -(-stop // block) == -(-extent // block) else extent
