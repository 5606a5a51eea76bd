"""``tpe``: Optuna's tree-structured Parzen estimator over whole plans (Bergstra et al. 2011).

A plan is encoded layer by layer: whether the layer is fused into the block of what reads it, should that be one block;
and, should a block end with it, the index of its core count, and of its layouts where there are several. All parameters
are always asked for, though a plan may have no use for some: Optuna then draws them together, in one step, which is up
to three times as fast as asking for each when it is needed, and finds plans that are as good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import optuna

from tuner.plan.space import PlanSpace
from tuner.search.strategies.base import State
from tuner.search.strategies.whole import Whole, WholePlans

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Tpe(WholePlans):
    """Options: ``plans``, how many it draws at most; ``startup``, how many of these are drawn at random first."""

    name = "tpe"
    _study: _Study | None = None  # as far as it was replayed

    def plans(self, state: State) -> Iterator[Whole]:
        study = self._study
        if study is None or not study.follows_from(state):
            study = self._study = _Study(state.space, state.seed, int(self.options["startup"]))
        for number in range(int(self.options["plans"])):
            if number == len(study.plans):
                if number:
                    study.tell(state)
                study.ask()
            yield study.plans[number]
            if np.isnan(study.plans[number].seconds(state.seconds)):
                return


@dataclass
class _Study:
    """An Optuna study over the plans of a space. It asks and tells in turns, so that times alone decide its course."""

    space: PlanSpace
    seed: int
    startup: int
    plans: list[Whole] = field(default_factory=list)  # as asked
    told: list[float] = field(default_factory=list)  # seconds; the last plan's may be missing

    def __post_init__(self) -> None:
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=self.startup, multivariate=True)
        self._study = optuna.create_study(sampler=sampler)
        self._encoding = _Encoding(self.space)

    def follows_from(self, state: State) -> bool:
        """Whether a new study would have come here with what this state knows."""
        told = (plan.seconds(state.seconds) == seconds for plan, seconds in zip(self.plans, self.told, strict=False))
        return state.space is self.space and state.seed == self.seed and all(told)

    def ask(self) -> None:
        self._trial = self._study.ask()
        self.plans.append(self._encoding.plan(self._trial))

    def tell(self, state: State) -> None:
        self.told.append(self.plans[-1].seconds(state.seconds))
        self._study.tell(self._trial, self.told[-1])


class _Encoding:
    """Reads a plan from an Optuna trial."""

    def __init__(self, space: PlanSpace) -> None:
        graph, position = space.graph, space.graph.position
        self._space = space
        self._readers = [
            sum({1 << position[c.id] for n in layer.outputs if n for c in graph.consumers[n]}) for layer in graph.layers
        ]
        # Layers that are in the blocks of each sink at all, and those that are in more than the block they end.
        self._reach = [0] * len(graph.layers)
        for block in space.blocks:
            self._reach[block.sink] |= block.mask
        self._fusible = [
            layer for layer in range(len(graph.layers))
            if any(reach >> layer & 1 for sink, reach in enumerate(self._reach) if sink != layer)
        ]  # fmt: skip
        self._variants = [
            max(len(space.block_of[frozenset(space.blocks[b].layers)]) for b in found) for found in space.by_sink
        ]

    def plan(self, trial: optuna.Trial) -> Whole:
        space = self._space
        fused = sum(trial.suggest_categorical(f"fuse {layer}", (0, 1)) << layer for layer in self._fusible)
        columns = [trial.suggest_int(f"cores {sink}", 0, len(space.cores) - 1) for sink in range(len(self._readers))]
        variants = [
            trial.suggest_int(f"layouts {sink}", 0, count - 1) if count > 1 else 0
            for sink, count in enumerate(self._variants)
        ]
        blocks, cores, left = [], [], (1 << len(self._readers)) - 1
        while left:
            sink = left.bit_length() - 1
            options = self._largest(sink, left & fused)
            blocks.append(options[variants[sink] % len(options)])
            cores.append(space.cores[columns[sink]])
            left &= ~space.blocks[options[0]].mask
        return Whole.of(space, blocks[::-1], cores[::-1])

    def _largest(self, sink: int, fused: int) -> tuple[int, ...]:
        """The largest legal block, in each of its layouts, of this sink and layers to be fused into what reads them."""
        wanted = 1 << sink
        for layer in reversed(range(sink)):
            readers = self._readers[layer]
            if self._reach[sink] & fused & 1 << layer and readers and not readers & ~wanted:
                wanted |= 1 << layer
        blocks = self._space.blocks
        fitting = [b for b in self._space.by_sink[sink] if not blocks[b].mask & ~wanted]
        return self._space.block_of[frozenset(blocks[max(fitting, key=lambda b: blocks[b].mask.bit_count())].layers)]
