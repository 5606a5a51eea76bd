"""``dlfusion``: the heuristic of DLFusion (Liu et al. 2020, arXiv 2011.05630). It measures nothing but its own plan.

From the paper: core counts and fusion are decided together; two facts of a layer decide, its operation count and its
feature map's channels; how they decide is learned from synthesised layers, measured once per device. From memory: walk
the layers in order and grow a block until its operation count reaches a critical value, where the rate that a core
achieves saturates; the block's core count follows from the logarithm of its operation count, and from its channels.

Ours, where the paper is not known in detail:

- What synthesised layers taught is asked of the predictor that was trained on them, as it is before the search
  measures anything: the rate of blocks of the space on the fewest cores, against their operations, and the best core
  count of each layer. The critical value is where the rate first comes to the share ``saturation`` of its peak; core
  counts are a linear function of both logarithms, fitted by least squares. Layers that multiply count, others only in a
  model that has none.
- Every core of a block has to reach the critical value (``per_core`` = 0: the block as a whole).
- What is walked are groups, a layer with the elementwise layers fused behind it. A run of groups that leaves more than
  one tensor is no block: where the critical value is reached in the middle of a branch, the cut is made before it.
- A block's channels are the mean of its layers' channels, weighted by their operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tuner.errors import UserError
from tuner.graph.costs import LayerCost, layer_cost
from tuner.plan.space import PlanSpace
from tuner.search.strategies import schemes
from tuner.search.strategies.base import Options, State
from tuner.search.strategies.restricted import Part, Restricted


class DLFusion(Restricted):
    """Options: ``saturation``, the share of its peak rate that a core has to reach; ``per_core``, see above."""

    name = "dlfusion"
    defaults: ClassVar[Options] = {"saturation": 0.9, "per_core": 1}

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
        work = {layer.id: layer_cost(space.graph, layer) for layer in space.graph.layers}
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
    cores: tuple[float, float, float]  # log2(best core count) = these times (1, log2(ops), log2(channels))

    def column(self, space: PlanSpace, ops: float, channels: float) -> int:
        """Index of the core count for so much work."""
        wanted = float(np.dot(self.cores, [1.0, np.log2(max(ops, 1.0)), np.log2(max(channels, 1.0))]))
        return int(np.abs(np.log2(space.cores) - wanted).argmin())


def _learn(space: PlanSpace, work: Mapping[str, LayerCost], mean: np.ndarray, saturation: float) -> Thresholds:
    """Thresholds from predicted times (``mean``: log-seconds [questions, cores])."""
    multiplies = {i for i, w in work.items() if w.macs} or {i for i, w in work.items() if w.ops}
    heavy = [i for i, question in enumerate(space.questions) if not multiplies.isdisjoint(question.layers)]
    if not heavy:
        return Thresholds(np.inf, (0.0, 0.0, 0.0))
    ops = np.array([sum(work[i].ops for i in space.questions[q].layers) for q in heavy], dtype=float)
    single = np.array([len(space.questions[q].layers) == 1 for q in heavy])
    channels = [work[space.questions[q].layers[0]].channels for q in np.array(heavy)[single]]
    rows = np.stack([np.ones(len(channels)), np.log2(ops[single]), np.log2(channels)], axis=1)
    best = np.log2(space.cores)[mean[heavy][single].argmin(axis=1)]
    slopes = np.linalg.lstsq(rows, best, rcond=None)[0]
    critical = _saturated(ops / space.cores[0], ops / np.exp(mean[heavy, 0]), saturation)
    return Thresholds(critical, (float(slopes[0]), float(slopes[1]), float(slopes[2])))


def _saturated(ops: np.ndarray, rates: np.ndarray, share: float) -> float:
    """The least operations at which blocks of about as many reach, in the median, this share of the best such rate."""
    sizes = np.round(2 * np.log2(ops))  # half octaves
    typical = {size: float(np.median(rates[sizes == size])) for size in np.unique(sizes)}
    first = min(size for size, rate in typical.items() if rate >= share * max(typical.values()))
    return float(ops[sizes == first].min())


def _grow(
    space: PlanSpace, work: Mapping[str, LayerCost], learned: Thresholds, per_core: bool
) -> list[tuple[frozenset[str], int]]:
    """(layers, index of a core count) of each block, in running order."""
    groups = schemes.greedy(space)
    found: list[tuple[frozenset[str], int]] = []
    first = 0
    while first < len(groups):
        block, ops, weighted, taken = groups[first], 0.0, 0.0, first + 1
        grown: frozenset[str] = frozenset()
        column = 0
        for number in range(first, len(groups)):
            grown |= groups[number]
            each = [work[i] for i in groups[number]]
            ops += sum(w.ops for w in each)
            weighted += sum(w.ops * w.channels for w in each)
            now = learned.column(space, ops, weighted / ops if ops else 1.0)
            if grown in space.block_of:
                block, column, taken = grown, now, number + 1
            if ops >= learned.critical * (space.cores[now] if per_core else 1):
                break
        found.append((block, column))
        first = taken
    return found
