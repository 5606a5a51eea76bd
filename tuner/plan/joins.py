"""Concatenations that need no kernel: what makes a part writes it straight into its slice of the whole.

That works where the parts lie one behind the other in memory: nothing but ones before the concatenated axis, each
slice beginning at a multiple of 64 bytes, and, where channels are joined in a blocked layout, every part but the last
filling its blocks.

A part may itself be a slice of something wider (``tuner.plan.slices``) that ends where the part ends, if it is the
first, or begins where it begins, if it is the last: then both wholes overlap there, and nothing is copied either.
Several concatenations may share parts if one's parts are a run of the other's, as in a DenseNet.
Numpy and the Graph only, so that the search, the assembly and whoever reads a plan come to the same answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from tuner.graph.ir import Graph, Layer
from tuner.plan.layout import PLAIN, block_of, element_bytes, physical_shape
from tuner.plan.legality import VIEWS
from tuner.plan.plan import IMPORTED, VIEW, Block, Plan
from tuner.plan.slices import ALIGNMENT, SLICE, hanging, in_place

if TYPE_CHECKING:
    from tuner.plan.space import BlockOption

_FOREIGN = frozenset({VIEW, IMPORTED})  # templates of blocks that cannot write where they are told


@dataclass(frozen=True)
class Part:
    """One input of a concatenation, by its place among the inputs; ``copied``: a kernel copies it into its slice."""

    tensor: str
    copied: bool


@dataclass(frozen=True)
class Join:
    """How a concatenation's parts come to lie in its result."""

    parts: tuple[Part, ...]

    @property
    def free(self) -> bool:
        """Whether nothing is copied."""
        return not any(part.copied for part in self.parts)


def joins(graph: Graph, plan: Plan) -> dict[str, Join]:
    """By layer id, the concatenations of a valid plan that are joined instead of run as kernels.

    A part is copied when it is the model's input or result, comes out of a view or an imported block, or lies in
    another concatenation already that shares not all of this one's parts; slices are views, save at the ends (see
    above). Where that is more than half of the bytes, the kernel does all of it better.
    """
    return _Joiner(graph, plan).run()


@dataclass(eq=False)
class _Row:
    """Tensors that lie one behind the other, "" for the copy of one; ``closed``: nothing more is put at its ends."""

    names: tuple[str, ...]
    closed: bool = False


_Stored = tuple[str, str]  # tensor, layout


class _Joiner:
    """Goes through a plan's concatenations in running order."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._graph, self._plan = graph, plan
        self._maker = {o: block for block in plan.blocks for i in block.layers for o in graph.by_id[i].outputs if o}
        self._rows: dict[_Stored, _Row] = {}  # where a tensor lies
        self._wholes: dict[_Stored, tuple[_Row, tuple[str, ...]]] = {}  # results: their row, and which part of it
        self._pinned: set[_Stored] = set()  # what overlaps with something else at an end

    def run(self) -> dict[str, Join]:
        found = {}
        for block in self._plan.blocks:
            layer = self._graph.by_id[block.layers[0]]
            if len(block.layers) > 1 or block.template == IMPORTED or layer.op != "Concat":
                continue
            layout = self._plan.layout(layer.outputs[0])
            alike = all(self._read(block, n) == layout for n in layer.inputs)
            join = self._join(layer, layout) if alike and contiguous(self._graph, layer, layout) else None
            if join is not None:
                found[layer.id] = join
        return found

    def _join(self, layer: Layer, layout: str) -> Join | None:
        whole, names = (layer.outputs[0], layout), layer.inputs
        if row := self._shared(names, layout):
            self._wholes[whole] = row, names
            return Join(tuple(Part(name, False) for name in names))
        hung, wider = self._hung(layer, layout)
        parts: list[Part] = []
        own = {self._lot(wider, layout)} if hung else set()
        for name in names:
            lot = self._lot(name, layout)
            there = name in hung or (self._fresh(name, layout) and lot not in own)
            own |= {lot} if there else set()
            parts.append(Part(name, not there))
        size = {name: self._graph.tensors[name].bytes for name in names}
        if 2 * sum(size[p.tensor] for p in parts if p.copied) > sum(size[p.tensor] for p in parts):
            return None
        row = _Row(tuple("" if p.copied else p.tensor for p in parts), closed=bool(hung))
        self._put(row, layout)
        self._wholes[whole] = row, row.names
        if hung:
            self._pinned |= {whole, (wider, layout)}
            self._close(wider, layout)
        return Join(tuple(parts))

    def _shared(self, names: tuple[str, ...], layout: str) -> _Row | None:
        """The row in which all of these lie already, or will if it is made longer."""
        rows = {id(row): row for n in names if (row := self._rows.get((n, layout)))}
        if len(rows) != 1 or len(set(names)) < len(names):
            return None
        (row,) = rows.values()
        if _is_run(names, row.names):
            return row
        new = [n for n in names if n not in row.names]
        if row.closed or not _is_run(row.names, names) or not all(self._fresh(n, layout) for n in new):
            return None
        if len({row, *(self._lot(n, layout) for n in new)}) <= len(new):
            return None  # one would lie inside another
        row.names = names
        self._put(row, layout)
        return row

    def _put(self, row: _Row, layout: str) -> None:
        for name in filter(None, row.names):
            self._rows[name, layout] = row
            self._close(name, layout)

    def _close(self, name: str, layout: str) -> None:
        """Something lies at the ends of this tensor now; if it is a whole, its row must not grow."""
        if (name, layout) in self._wholes:
            self._wholes[name, layout][0].closed = True

    def _lot(self, name: str, layout: str) -> _Row | str:
        """Equal for tensors that are one and the same memory: the row that a whole is, or else its name."""
        return self._wholes[name, layout][0] if (name, layout) in self._wholes else name

    def _fresh(self, name: str, layout: str) -> bool:
        """Whether a tensor can be put anywhere, and was not yet."""
        stored = name, layout
        if stored in self._rows or stored in self._pinned or not self._movable(name, layout):
            return False
        row, names = self._wholes.get(stored, (_Row(()), ()))
        return row.names == names and not row.closed

    def _hung(self, layer: Layer, layout: str) -> tuple[tuple[str, ...], str]:
        """The parts that are slices at the end of something wider, and that; nothing where it cannot be so."""
        graph, plan = self._graph, self._plan
        hung, wider = hanging(graph, layer, layout)
        makers = [self._maker[n] for n in hung]
        viewed = all(b.template == VIEW and self._read(b, wider) == layout for b in makers)
        stored = all(plan.layout(n) == layout and n not in graph.outputs for n in hung)
        return (hung, wider) if hung and viewed and stored and self._fresh(wider, layout) else ((), "")

    def _read(self, block: Block, tensor: str) -> str:
        return block.reads.get(tensor, self._plan.layout(tensor))

    def _movable(self, tensor: str, layout: str) -> bool:
        """Whether what makes a tensor in this layout can write it anywhere."""
        if self._plan.layout(tensor) != layout:
            return True  # a kernel changes its layout
        if tensor not in self._maker or (layout == PLAIN and tensor in self._graph.outputs):
            return False
        return self._maker[tensor].template not in _FOREIGN


def _is_run(some: Sequence[str], names: Sequence[str]) -> bool:
    """Whether ``some`` stand in ``names`` one behind the other, none of them a copy."""
    width = len(some)
    return "" not in some and any(tuple(names[k : k + width]) == tuple(some) for k in range(len(names) - width + 1))


def contiguous(graph: Graph, layer: Layer, layout: str) -> bool:
    """Whether the parts of a Concat, all in ``layout``, lie one behind the other in its result, and all aligned."""
    if any(n not in graph.tensors or graph.tensors[n].dtype != "float32" for n in layer.inputs):
        return False
    whole = graph.tensors[layer.outputs[0]].shape
    axis, block = layer.attr("axis") % len(whole), block_of(layout)
    if prod(whole[:axis]) != 1 or not prod(whole) or (block and axis > 1):
        return False
    shapes = [graph.tensors[n].shape for n in layer.inputs]
    if block and axis == 1 and any(shape[1] % block for shape in shapes[:-1]):
        return False
    return all(prod(physical_shape(shape, layout)) * element_bytes(layout) % ALIGNMENT == 0 for shape in shapes[:-1])


def free_blocks(graph: Graph, plan: Plan) -> Iterator[Block]:
    """The blocks of a plan that are concatenations without any copying: they take no time and need no kernel."""
    found = joins(graph, plan)
    return (b for b in plan.blocks if b.layers[0] in found and found[b.layers[0]].free)


def is_free(graph: Graph, block: BlockOption, served: Collection[str]) -> bool:
    """Whether a block that may be chosen will be a free concatenation, whatever else is chosen.

    Args:
        block: one whose layouts are named as in ``PlanSpace``.
        served: layers that templates serve: what makes a part must be one of them.
    """
    layer = graph.by_id[block.layers[0]]
    if len(block.layers) > 1 or layer.op != "Concat":
        return False
    layout = block.writes.get(layer.outputs[0], PLAIN)
    alike = all(block.reads.get(n, PLAIN) == layout for n in layer.inputs)
    return alike and lies_free(graph, layer, layout, served)


def lies_free(graph: Graph, layer: Layer, layout: str, served: Collection[str]) -> bool:
    """Whether a Concat by itself, with all in this layout, is free whatever else is chosen; ``served`` as above."""
    hung, wider = hanging(graph, layer, layout)
    if len(set(layer.inputs)) < len(layer.inputs) or not contiguous(graph, layer, layout):
        return False
    for name in (*(n for n in layer.inputs if n not in hung), *((wider,) if hung else ())):
        maker = graph.producer.get(name)
        if maker is None or maker.id not in served or name in graph.outputs:
            return False
        if maker.op in VIEWS or (maker.op == SLICE and in_place(graph, maker, layout)):
            return False
        if maker.op == "Concat" and (_others(graph, maker) or hanging(graph, maker, layout)[0]):
            return False
    others = _others(graph, layer)
    if hung or any(hanging(graph, x, layout)[0] or any(_concats(graph, x.outputs[0])) for x in others):
        return not others and not [x for x in _concats(graph, wider) if x is not layer]
    together = sorted([layer, *others], key=lambda x: len(x.inputs))  # a run of a run is one
    return all(_is_run(shorter.inputs, longer.inputs) for shorter, longer in pairwise(together))


def _others(graph: Graph, layer: Layer) -> list[Layer]:
    """Other concatenations that read a part of this one."""
    found = {x.id: x for n in layer.inputs for x in _concats(graph, n)}
    return [x for x in found.values() if x is not layer]


def _concats(graph: Graph, tensor: str) -> Iterator[Layer]:
    """The concatenations that read a tensor, or its slices."""
    for reader in graph.consumers.get(tensor, ()):
        if reader.op == "Concat":
            yield reader
        elif reader.op == SLICE:
            yield from (r for r in graph.consumers[reader.outputs[0]] if r.op == "Concat")
