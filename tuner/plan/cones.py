"""Sets of layers that may be blocks: each is grown from its last layer, its *sink*, against the direction of the data.

A layer joins when all that read it are inside, so that exactly one tensor leaves a set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tuner.graph.ir import Graph, Layer
from tuner.plan.elementwise import ELEMENTWISE

MOST_PER_SINK = 4096  # sets that end in one layer; beyond that the smallest ones are kept


class Cones:
    """Enumerates the sets of layers that may be blocks, as bit sets: bit i = the Graph's layer i is in it.

    ``may_grow`` tells whether more layers may join a set with these that are not elementwise.
    """

    def __init__(self, graph: Graph, may_grow: Callable[[Sequence[Layer]], bool]) -> None:
        self._graph, self._may_grow = graph, may_grow
        position, outputs = graph.position, set(graph.outputs)
        self.heavy = sum(1 << i for i, layer in enumerate(graph.layers) if layer.op not in ELEMENTWISE)
        self._makers = [
            sum({1 << position[graph.producer[n].id] for n in layer.inputs if n in graph.producer})
            for layer in graph.layers
        ]
        # Who has to be inside before a layer may join; None = it makes what the model's user reads.
        self._readers = [
            None
            if outputs.intersection(layer.outputs)
            else sum({1 << position[c.id] for n in layer.outputs if n for c in graph.consumers[n]})
            for layer in graph.layers
        ]

    def ending_in(self, sink: int) -> tuple[list[int], bool]:
        """The sets whose last layer is ``sink``, the smallest first, and whether those are all."""
        first = 1 << sink
        found, seen = [first], {first}
        frontier = [(first, self._makers[sink])]
        while frontier:
            grown: list[tuple[int, int]] = []
            for mask, feeding in frontier:
                if not self._may_grow([self._graph.layers[i] for i in bits(mask & self.heavy)]):
                    continue
                for position in bits(feeding & ~mask):
                    readers, larger = self._readers[position], mask | 1 << position
                    if readers is not None and not readers & ~mask and larger not in seen:
                        seen.add(larger)
                        grown.append((larger, feeding | self._makers[position]))
            found += [mask for mask, _ in grown]
            if len(found) > MOST_PER_SINK:
                return found[:MOST_PER_SINK], False
            frontier = grown
        return found, True


def bits(mask: int) -> list[int]:
    """Positions of the set bits, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found
