"""Small spaces with made-up times, for the tests of strategies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tests.unit.plan.plan_graphs import DEVICE, WEIGHTS, conv, graph_of, layer, random_dag, residual
from tests.unit.plan.plan_spaces import TwoLayouts
from tuner.graph.costs import layer_cost
from tuner.graph.ir import Graph
from tuner.plan.chains import AnyChain
from tuner.plan.space import Evaluation, PlanSpace, plan_space
from tuner.search.strategies.base import State, Strategy

CORES = (1, 2, 3, 4)


def chain(count: int = 4) -> Graph:
    """Convolutions, a Relu behind each: layers T0, T1, ..."""
    names = ["x", *(f"t{i}" for i in range(2 * count))]
    layers = [
        layer("Relu", [a], b) if i % 2 else conv(a, b)
        for i, (a, b) in enumerate(pairwise(names))
    ]  # fmt: skip
    return graph_of(layers, names[-1:], constants=WEIGHTS)


def spaces() -> dict[str, PlanSpace]:
    """A chain, a residual block, a tangle, and one with two layouts per block."""
    tangle, mixed = random_dag(3, 10)[0], chain(2)
    return {
        "chain": plan_space(chain(), DEVICE, CORES, AnyChain(3)),
        "residual": plan_space(residual(), DEVICE, CORES, AnyChain()),
        "tangle": plan_space(tangle, DEVICE, CORES, AnyChain(2)),
        "layouts": plan_space(mixed, DEVICE, CORES, TwoLayouts(), conversions=dict.fromkeys(mixed.tensors, 0.1)),
    }


def truth(space: PlanSpace, seed: int = 0) -> np.ndarray:
    """Seconds by a crude machine, with some scatter: work on cores, cost of a launch, of cores, and of depth."""
    rng = np.random.default_rng(seed)
    cores = np.array(space.cores)
    rows = []
    for question in space.questions:
        ops = sum(layer_cost(space.graph, space.graph.by_id[i]).ops for i in question.layers)
        rows.append(ops / 1e5 / cores * (1 + 0.02 * cores * len(question.layers)) + 0.5 + 0.05 * cores)
    return np.array(rows).reshape(-1, len(cores)) * rng.uniform(0.8, 1.25, (len(rows), len(cores)))


@dataclass(frozen=True)
class Guess:
    """A predictor that knows the truth to within some scatter; it does not look at the state."""

    truth: np.ndarray
    scatter: float = 0.05

    def predict(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        noise = np.random.default_rng(7).normal(0, self.scatter, self.truth.shape)
        return np.log(self.truth) + noise, np.full(self.truth.shape, self.scatter)


def state_of(space: PlanSpace, table: np.ndarray, **others: Any) -> State:
    return State(space, predictor=Guess(table), **others)


def run(strategy: Strategy, state: State, table: np.ndarray, batch: int = 4) -> list[list[Evaluation]]:
    """Measure what is proposed, in batches, until it wants no more; checks what every strategy promises."""
    asked: list[list[Evaluation]] = []
    while not strategy.done(state):
        wanted = strategy.propose(state, batch)
        assert 0 < len(wanted) <= min(batch, state.left)
        assert len(set(wanted)) == len(wanted)
        assert all(np.isnan(state.seconds[e]) for e in wanted)
        tell(state, wanted, table)
        asked.append(wanted)
    assert not state.left or strategy.propose(state, batch) == []
    return asked


def tell(state: State, evaluations: Iterable[Evaluation], table: np.ndarray) -> None:
    state.tell((e, None if np.isinf(table[e]) else float(table[e])) for e in evaluations)


def names_of(space: PlanSpace, blocks: Sequence[int]) -> list[str]:
    """Layers of each block, in short."""
    return ["+".join(space.blocks[b].layers) for b in blocks]
