"""What simulated accelerators can fuse: whatever is connected, as deep as the model's size lets it be listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.graph.ir import Graph, Layer
from tuner.plan.cones import Cones
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.space import SIMULATED, Variant

MOST_LAYERS = 500_000  # in all blocks together; listing them and their costs takes some 20 s
DEPTHS = (64, 32, 16, 8, 4, 2)  # what is tried where blocks of any depth are more
_SIMULATED = Variant(SIMULATED, {}, {})


@dataclass(frozen=True)
class AnyChain:
    """Whatever is connected may be one block, up to ``depth`` layers that are not elementwise."""

    depth: int | None = None  # None = no limit

    def may_grow(self, heavy: Sequence[Layer]) -> bool:
        return self.depth is None or len(heavy) <= self.depth

    def variants(self, graph: Graph, layers: tuple[str, ...]) -> Sequence[Variant]:
        heavy = sum(graph.by_id[i].op not in ELEMENTWISE for i in layers)
        return (_SIMULATED,) if self.depth is None or heavy <= self.depth or len(layers) == 1 else ()


def deepest(graph: Graph) -> AnyChain:
    """No limit, or the largest of DEPTHS with which all blocks together have at most MOST_LAYERS layers.

    The last of them where none has. A model of a thousand layers has thousands of blocks of hundreds of layers each:
    what they would take to list grows with the cube of its length.
    """
    for depth in (None, *DEPTHS):
        if _fits(graph, AnyChain(depth)):
            return AnyChain(depth)
    return AnyChain(DEPTHS[-1])


def _fits(graph: Graph, rules: AnyChain) -> bool:
    cones, layers = Cones(graph, rules.may_grow), 0
    most = len(graph.layers) if rules.depth is None else rules.depth
    for sink in range(len(graph.layers)):
        masks, _ = cones.ending_in(sink)
        layers += sum(mask.bit_count() for mask in masks if (mask & cones.heavy).bit_count() <= most)
        if layers > MOST_LAYERS:
            return False
    return True
