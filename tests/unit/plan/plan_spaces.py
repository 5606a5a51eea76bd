"""Plan spaces of hand-written graphs, for the tests of plans and strategies."""

from __future__ import annotations

from collections.abc import Sequence

from tests.unit.plan.plan_graphs import DEVICE
from tuner.graph.ir import Graph, Layer
from tuner.plan.chains import AnyChain
from tuner.plan.space import PlanSpace, Variant, crossing, plan_space


def space_of(graph: Graph, depth: int | None = None, cores: Sequence[int] = (1, 2, 4)) -> PlanSpace:
    return plan_space(graph, DEVICE, cores, AnyChain(depth))


class TwoLayouts:
    """Every block both plain and blocked, save single Relus, which are plain only and do not say so."""

    def may_grow(self, heavy: Sequence[Layer]) -> bool:
        return True

    def variants(self, graph: Graph, layers: tuple[str, ...]) -> Sequence[Variant]:
        reads, writes = crossing(graph, layers)
        if len(layers) == 1 and graph.by_id[layers[0]].op == "Relu":
            return [Variant("own", {}, {})]
        return [
            Variant("own", dict.fromkeys(reads, layout), dict.fromkeys(writes, layout))
            for layout in ("plain", "NCHW8c")
        ]
