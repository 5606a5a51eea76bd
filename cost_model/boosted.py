"""Gradient-boosted trees (XGBoost) with a spread from a small ensemble, each member seeing other samples."""

from __future__ import annotations

import numpy as np
import xgboost

from cost_model.base import CostModel


class BoostedTrees(CostModel):
    """``members`` boosters on bootstrap samples; their disagreement, with a floor, is the standard deviation.

    Args:
        threads: cores that it may use; one by default, because a second OpenMP thread waits for a core that others
            keep busy far longer than it saves.
        floor: least standard deviation, in log-seconds: what a measurement itself scatters by.
    """

    def __init__(self, *, members: int = 3, rounds: int = 80, threads: int = 1, seed: int = 0, floor: float = 0.03):
        self._members, self._rounds, self._threads, self._seed, self._floor = members, rounds, threads, seed, floor
        self._boosters: list[xgboost.Booster] = []
        self._center = 0.0
        self.version = 0  # grows with every update: what was predicted before is then stale

    @property
    def trained(self) -> bool:
        return bool(self._boosters)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self._boosters:
            return np.zeros(len(features)), np.ones(len(features))
        votes = np.stack([booster.inplace_predict(features) for booster in self._boosters])
        return votes.mean(axis=0) + self._center, np.maximum(votes.std(axis=0), self._floor)

    def update(self, features: np.ndarray, targets: np.ndarray) -> None:
        if len(targets) < 2:
            return
        self._center = float(np.mean(targets))
        random = np.random.default_rng(self._seed)
        options = {
            "max_depth": 5,
            "eta": 0.15,
            "min_child_weight": 1,
            "subsample": 0.9,
            "colsample_bynode": 0.5,
            "tree_method": "hist",
            "max_bin": 64,  # knobs have few values, and shapes few sizes; half the time of 256
            "nthread": self._threads,
            "verbosity": 0,
        }
        boosters = []
        for member in range(self._members):
            chosen = random.integers(0, len(targets), len(targets)) if member else np.arange(len(targets))
            matrix = xgboost.DMatrix(features[chosen], targets[chosen] - self._center, nthread=self._threads)
            boosters.append(xgboost.train(options | {"seed": self._seed + member}, matrix, self._rounds))
        self._boosters = boosters
        self.version += 1
