"""Fusion schemes: how a Graph is cut into blocks when no time decides. Each gives sets of layers in running order."""

from __future__ import annotations

import numpy as np

from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.partition import best_partition
from tuner.plan.space import PlanSpace

Scheme = list[frozenset[str]]  # sets of layer ids that cover the Graph, each a legal block of the space


def layers(space: PlanSpace) -> Scheme:
    """Every layer its own block."""
    return [frozenset({layer.id}) for layer in space.graph.layers]


def greedy(space: PlanSpace) -> Scheme:
    """Every elementwise layer joins the block of a layer that it reads, the one that runs last, where that is legal."""
    graph = space.graph
    home: dict[str, frozenset[str]] = {}  # layer id -> its block
    for layer in graph.layers:
        joined = frozenset({layer.id})
        if layer.op in ELEMENTWISE:
            read = {graph.producer[n].id for n in layer.inputs if n in graph.producer}
            wider = (home[maker] | joined for maker in sorted(read, key=lambda i: -graph.position[i]))
            joined = next((block for block in wider if block in space.block_of), joined)
        home |= dict.fromkeys(joined, joined)
    return _in_order(space, set(home.values()))


def fewest(space: PlanSpace) -> Scheme:
    """As few blocks as possible."""
    choice = best_partition(space, np.ones((len(space.questions), len(space.cores))))
    return [frozenset(space.blocks[b].layers) for b in choice.blocks]


def _in_order(space: PlanSpace, blocks: set[frozenset[str]]) -> Scheme:
    position = space.graph.position
    return sorted(blocks, key=lambda block: max(position[i] for i in block))
