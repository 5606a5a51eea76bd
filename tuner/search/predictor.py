"""Predicts a plan space's evaluations with the cost model of blocks, which learns from each one measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cost_model.block_model import BlockModel
from tuner.plan.space import Evaluation, PlanSpace
from tuner.search.blocks import every_plain_rows, narrow_names, variant_rows
from tuner.search.samples import Samples
from tuner.search.strategies.base import State

GROWTH = 1.1  # of the samples, at which the model learns anew ...
FEWEST = 8  # ... and by so many at least,
SHARE = 50  # ... or by one in so many of those known before: fitting to many takes longer


@dataclass
class BlockPredictor:
    """The Predictor of a space. ``samples``: what was known of the device before, if anything was."""

    space: PlanSpace
    model: BlockModel
    samples: Samples | None = None
    _known: tuple[Evaluation, ...] | None = None  # what the model knows of the space
    _features: np.ndarray | None = field(default=None, repr=False)  # [questions, cores, columns]
    _last: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)  # what it said since it learned

    @property
    def features(self) -> np.ndarray:
        """Of every evaluation, ``[questions, cores, columns]``; made when first asked for."""
        if self._features is None:
            space = self.space
            asked = [(space.workload(q), space.layouts(q)) for q in range(len(space.questions))]
            keys = [(q.layers, narrow_names(layouts)) for q, (_, layouts) in zip(space.questions, asked, strict=True)]
            distinct = {key: (workload, key[1]) for key, (workload, _) in zip(keys, asked, strict=True)}
            known = dict(zip(distinct, every_plain_rows([*distinct.values()], space.cores, space.device), strict=True))
            made = [
                variant_rows(known[key], workload, layouts, question.template)
                for question, key, (workload, layouts) in zip(space.questions, keys, asked, strict=True)
            ]
            self._features = np.stack(made).astype(np.float32)
        return self._features

    @property
    def asked(self) -> bool:
        """Whether anything was predicted yet."""
        return self._last is not None

    def predict(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        if self._learn(state) or self._last is None:
            shape = state.seconds.shape
            mean, std = self.model.predict(self.features.reshape(-1, self.features.shape[-1]))
            self._last = mean.reshape(shape), std.reshape(shape)
        return self._last

    def _learn(self, state: State) -> bool:
        """Train on the first so many evaluations of the state: the same state always gives the same predictions."""
        known = tuple(sorted(state.order[: self._step(len(state.order))]))
        if self._known == known:
            return False
        at = tuple(np.asarray(known, dtype=int).reshape(-1, 2).T)
        own = Samples.of(self.features[at], state.seconds[at])
        every = own if self.samples is None else Samples.joined([self.samples, own])
        if len(every):
            self.model.fit(every.rows, every.seconds, every.weights, every.groups)
        self._known = known
        return True

    def _step(self, count: int) -> int:
        """The largest number of samples up to ``count`` at which the model learns anew."""
        fewest = max(FEWEST, len(self.samples) // SHARE if self.samples else 0)
        step = 0
        while (following := max(step + fewest, int(step * GROWTH))) <= count:
            step = following
        return step
