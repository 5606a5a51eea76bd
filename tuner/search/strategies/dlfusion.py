"""``dlfusion``: the heuristic of DLFusion (Liu et al. 2020, arXiv 2011.05630). It measures nothing but its own plan.

From the paper: core counts and fusion are decided together; two facts of a layer decide, its operation count and its
feature map's channels; how they decide is learned from synthesised layers, measured once per device. From memory: walk
the layers in order and grow a block until its operation count reaches a critical value, where the rate that a core
achieves saturates; the block's core count follows from the logarithm of its operation count, and from its channels.

Ours, where the paper is not known in detail:

- What synthesised layers taught is asked of the predictor that was trained on them, before the search measures
  anything: the rate of the space's blocks on the fewest cores, against their operations, and the best core count of
  each layer. The critical value is where the rate first comes to the share ``saturation`` of its peak; core counts are
  linear in both logarithms, fitted by least squares. Layers that multiply count, others only in a model without any.
- The block as a whole has to reach the critical value; ``per_core`` = 1: every core's part of it.
- What is walked are groups, a layer with the elementwise layers fused behind it. A run of groups that leaves more than
  one tensor is no block: where the critical value is reached in the middle of a branch, the cut is made before it.
- A dense layer has no feature map that cores could split, so it is a group of its own that nothing is fused with; core
  counts of dense layers are fitted by themselves.
- A block's channels are the mean of its layers' channels, weighted by their operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tuner.errors import UserError
from tuner.graph.costs import LayerCost, layer_cost
from tuner.graph.ir import Graph
from tuner.plan.space import PlanSpace
from tuner.search.strategies import schemes
from tuner.search.strategies.base import State
from tuner.search.strategies.restricted import Part, Restricted


class DLFusion(Restricted):
    """Options: ``saturation``, the share of its peak rate that a core has to reach; ``per_core``, see above."""

    name = "dlfusion"

    def part(self, state: State) -> Part:
        if state.predictor is None:
            raise UserError("The strategy dlfusion needs a calibrated device: it learns its thresholds there.",
                            code="no-model", hint="Run fusetune calibrate for this device.")  # fmt: skip
        if not 0 < self.options["saturation"] < 1:
            raise UserError("The option saturation of the strategy dlfusion has to lie between 0 and 1.",
                            code="bad-option")  # fmt: skip
        space = state.space
        # Asked as it was before the search: what is measured meanwhile must not move the plan.
        mean, _ = state.predictor.predict(State(space, state.seed, state.budget, state.predictor))
        work = _Work(space.graph)
        learned = _learn(space, work, mean, self.options["saturation"])
        chosen: list[int] = []
        allowed = np.zeros(mean.shape, dtype=bool)
        for layers, column in _grow(space, work, learned, bool(self.options["per_core"])):
            for block in space.block_of[layers]:
                chosen.append(block)
                allowed[space.blocks[block].question, column] = True
        return Part(tuple(sorted(chosen)), allowed)


@dataclass(frozen=True)
class Thresholds:
    """What calibration teaches the heuristic about a machine."""

    critical: float  # operations that let one core come near its peak rate; inf = no layer has any
    cores: np.ndarray  # [3] log2(best core count) = these times (1, log2(ops), log2(channels))
    dense: np.ndarray  # [3] the same for dense layers

    def column(self, space: PlanSpace, ops: float, channels: float, dense: bool = False) -> int:
        """Index of the core count for so much work."""
        slopes = self.dense if dense else self.cores
        wanted = float(slopes @ [1.0, np.log2(max(ops, 1.0)), np.log2(max(channels, 1.0))])
        return int(np.abs(np.log2(space.cores) - wanted).argmin())


class _Work:
    """What the heuristic looks at in a Graph's layers."""

    def __init__(self, graph: Graph) -> None:
        self.cost: Mapping[str, LayerCost] = {layer.id: layer_cost(graph, layer) for layer in graph.layers}
        multiply = {i for i, cost in self.cost.items() if cost.macs}
        rank = {layer.id: len(graph.type_of(layer.outputs[0]).shape) for layer in graph.layers}
        self.dense = {i for i in multiply if rank[i] < 3}
        # Those whose rates and core counts are learned from.
        self.heavy = multiply - self.dense or multiply or {i for i, cost in self.cost.items() if cost.ops}

    def ops(self, layers: Iterable[str]) -> int:
        return sum(self.cost[i].ops for i in layers)


def _learn(space: PlanSpace, work: _Work, mean: np.ndarray, saturation: float) -> Thresholds:
    """Thresholds from predicted times (``mean``: log-seconds [questions, cores])."""
    asked = [q.layers for q in space.questions]
    single = {layers[0]: q for q, layers in enumerate(asked) if len(layers) == 1}

    def slopes(learned_from: set[str]) -> np.ndarray:
        found = [(i, q) for i, q in single.items() if i in learned_from]
        if not found:
            return np.zeros(3)
        rows = [(1.0, np.log2(work.cost[i].ops), np.log2(work.cost[i].channels)) for i, _ in found]
        best = np.log2(space.cores)[mean[[q for _, q in found]].argmin(axis=1)]
        return np.asarray(np.linalg.lstsq(np.array(rows), best, rcond=None)[0])

    shared = slopes(work.heavy)
    lone = work.dense - work.heavy
    chains = [q for q, layers in enumerate(asked) if not work.heavy.isdisjoint(layers) and lone.isdisjoint(layers)]
    if not chains:
        return Thresholds(np.inf, shared, shared)
    ops = np.array([work.ops(asked[q]) for q in chains], dtype=float)
    critical = _saturated(ops / space.cores[0], ops / np.exp(mean[chains, 0]), saturation)
    return Thresholds(critical, shared, slopes(work.dense))


def _saturated(ops: np.ndarray, rates: np.ndarray, share: float) -> float:
    """The least operations at which blocks of about as many reach, in the median, this share of the best such rate."""
    sizes = np.round(2 * np.log2(ops))  # half octaves
    typical = {size: float(np.median(rates[sizes == size])) for size in np.unique(sizes)}
    first = min(size for size, rate in typical.items() if rate >= share * max(typical.values()))
    return float(ops[sizes == first].min())


def _grow(space: PlanSpace, work: _Work, learned: Thresholds, per_core: bool) -> list[tuple[frozenset[str], int]]:
    """(layers, index of a core count) of each block, in running order."""
    groups = schemes.greedy(space)
    found: list[tuple[frozenset[str], int]] = []
    first = 0
    while first < len(groups):
        block, taken, column = groups[first], first + 1, 0
        grown: frozenset[str] = frozenset()
        ops, weighted = 0, 0
        for number in range(first, len(groups)):
            dense = not work.dense.isdisjoint(groups[number])
            if dense and grown:
                break
            grown |= groups[number]
            ops += work.ops(groups[number])
            weighted += sum(work.cost[i].ops * work.cost[i].channels for i in groups[number])
            now = learned.column(space, ops, weighted / ops if ops else 1.0, dense)
            if grown in space.block_of:
                block, taken, column = grown, number + 1, now
            if dense or ops >= learned.critical * (space.cores[now] if per_core else 1):
                break
        found.append((block, column))
        first = taken
    return found
