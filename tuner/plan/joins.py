"""Concatenations that need no kernel: what makes a part writes it straight into its slice of the whole.

That works where the parts lie one behind the other in memory: nothing but ones before the concatenated axis, each
slice beginning at a multiple of 64 bytes, and, in a blocked layout, every part but the last filling its blocks.
Numpy and the Graph only, so that the search, the assembly and whoever reads a plan come to the same answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from tuner.graph.ir import Graph, Layer
from tuner.plan.layout import PLAIN, block_of, physical_shape
from tuner.plan.legality import VIEWS
from tuner.plan.plan import IMPORTED, VIEW, Block, Plan

if TYPE_CHECKING:
    from tuner.plan.space import BlockOption

ALIGNMENT = 64  # bytes; what kernels assume of a tensor's address
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
    another concatenation already. Where that is more than half of the bytes, the kernel does all of it better.
    """
    maker = {o: block for block in plan.blocks for i in block.layers for o in graph.by_id[i].outputs if o}
    taken: set[tuple[str, str]] = set()  # (tensor, layout) that lie in some result
    found = {}
    for block in plan.blocks:
        layer = graph.by_id[block.layers[0]]
        if len(block.layers) > 1 or block.template == IMPORTED or layer.op != "Concat":
            continue
        layout = plan.layout(layer.outputs[0])
        if any(_read(plan, block, n) != layout for n in layer.inputs) or not contiguous(graph, layer, layout):
            continue
        own: set[tuple[str, str]] = set()
        parts = []
        for name in layer.inputs:
            copied = (name, layout) in taken | own or not _movable(graph, plan, maker, name, layout)
            own |= set() if copied else {(name, layout)}
            parts.append(Part(name, copied))
        copied_bytes = sum(graph.tensors[p.tensor].bytes for p in parts if p.copied)
        if 2 * copied_bytes <= sum(graph.tensors[p.tensor].bytes for p in parts):
            taken |= own
            found[layer.id] = Join(tuple(parts))
    return found


def contiguous(graph: Graph, layer: Layer, layout: str) -> bool:
    """Whether the parts of a Concat, all in ``layout``, lie one behind the other in its result, and all aligned."""
    if any(n not in graph.tensors or graph.tensors[n].dtype != "float32" for n in layer.inputs):
        return False
    whole = graph.tensors[layer.outputs[0]].shape
    axis, block = layer.attr("axis") % len(whole), block_of(layout)
    if prod(whole[:axis]) != 1 or not prod(whole) or (block and axis != 1):
        return False
    shapes = [graph.tensors[n].shape for n in layer.inputs]
    if block and any(shape[1] % block for shape in shapes[:-1]):
        return False
    return all(prod(physical_shape(shape, layout)) * 4 % ALIGNMENT == 0 for shape in shapes[:-1])


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
    if len(set(layer.inputs)) < len(layer.inputs) or any(block.reads.get(n, PLAIN) != layout for n in layer.inputs):
        return False
    for name in layer.inputs:
        maker = graph.producer.get(name)
        if maker is None or maker.op in VIEWS or maker.id not in served or name in graph.outputs:
            return False
        if any(reader.op == "Concat" and reader is not layer for reader in graph.consumers[name]):
            return False
    return contiguous(graph, layer, layout)


def _read(plan: Plan, block: Block, tensor: str) -> str:
    return block.reads.get(tensor, plan.layout(tensor))


def _movable(graph: Graph, plan: Plan, maker: Mapping[str, Block], tensor: str, layout: str) -> bool:
    """Whether what makes a tensor in this layout can write it anywhere."""
    if plan.layout(tensor) != layout:
        return True  # a kernel changes its layout
    if tensor not in maker or (layout == PLAIN and tensor in graph.outputs):
        return False
    return maker[tensor].template not in _FOREIGN
