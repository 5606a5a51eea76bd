"""What is believed of a question's points: the analytic model, corrected by the shared cost model, then by own results.

The analytic model orders points before anything was measured; boosted trees, trained on other kernels too, correct it;
a Gaussian process on what remains learns from the few measurements of the very kernel in question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cost_model.boosted import BoostedTrees
from cost_model.residuals import NOISE, Residuals
from tuner.kernels.base import Space
from tuner.search.features import Features

Knobs = Mapping[str, int]
TRUST = 0.5  # share of its correction that is believed: what is learned of other kernels holds for this one in part
REMEMBERED = 128  # measurements of one question that the Gaussian process takes in


@dataclass(frozen=True)
class Points:
    """Points of a space as arrays, made once."""

    rows: np.ndarray  # [n, columns] features for the shared model
    expected: np.ndarray  # [n] log-seconds by the analytic model
    places: np.ndarray  # [n, coordinates] for the Gaussian process

    def __len__(self) -> int:
        return len(self.expected)

    def pick(self, chosen: Sequence[int] | np.ndarray) -> Points:
        return Points(self.rows[chosen], self.expected[chosen], self.places[chosen])


@dataclass(frozen=True)
class Belief:
    """Mean and standard deviation of the log-seconds of some points, and how measurements would change them."""

    points: Points
    model_mean: np.ndarray  # [n] log-seconds: analytic and shared model
    model_std: np.ndarray  # [n]
    own: Residuals

    @cached_property
    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each point, ``[n]`` both."""
        mean, std = self.own.at(self.points.places)
        return self.model_mean + mean, np.hypot(self.model_std, std)

    def of(self, chosen: Sequence[int]) -> Belief:
        """About these points alone."""
        return Belief(self.points.pick(chosen), self.model_mean[chosen], self.model_std[chosen], self.own)

    def choose(self, count: int, optimism: float, pool: int = 256) -> list[int]:
        """Positions of up to ``count`` points to measure together, the most promising first.

        Each is the lowest of mean - optimism x std, given that those before it turn out as expected (the "kriging
        believer" of Ginsbourger et al., 2010), so that a batch is not one point and its neighbours.
        """
        mean, std = self.mean_std
        near = np.argsort(mean - optimism * std, kind="stable")[: max(pool, 2 * count)]
        covariance = self.own.covariance(self.points.places[near])
        chosen: list[int] = []
        for _ in range(min(count, len(near))):
            own = np.clip(np.diag(covariance), 0, None)
            scores = mean[near] - optimism * np.sqrt(self.model_std[near] ** 2 + own)
            scores[chosen] = np.inf
            chosen.append(int(np.argmin(scores)))
            column = covariance[:, chosen[-1]]
            covariance = covariance - np.outer(column, column) / (column[chosen[-1]] + NOISE**2)
        return [int(near[i]) for i in chosen]


class Posterior:
    """Makes beliefs about one question's points."""

    def __init__(self, features: Features, space: Space) -> None:
        self._features, self._space = features, space
        # What the shared model of a version said of points: the same ones are asked about after every measurement.
        self._shared: tuple[int, Points, np.ndarray, np.ndarray] | None = None

    def points(self, every: Sequence[Knobs]) -> Points:
        features = self._features
        return Points(features.rows(every), features.expected(every), features.places(every, self._space))

    def learn(self, known: Points, model_mean: np.ndarray, log_seconds: np.ndarray) -> Residuals:
        """What measurements say beyond the shared model; of many the fastest, where the search is going on."""
        fastest = np.argsort(log_seconds, kind="stable")[:REMEMBERED]
        return Residuals.fit(known.places[fastest], (log_seconds - model_mean)[fastest])

    def belief(self, points: Points, own: Residuals, model: BoostedTrees) -> Belief:
        return Belief(points, *self.kept(points, model), own)

    def kept(self, points: Points, model: BoostedTrees) -> tuple[np.ndarray, np.ndarray]:
        """``shared``, thought over only when the model has changed or other points are asked about."""
        if self.outdated(points, model):
            self._shared = (model.version, points, *self.shared(points, model))
        assert self._shared is not None  # since it is not outdated
        return self._shared[2:]

    def outdated(self, points: Points, model: BoostedTrees) -> bool:
        """Whether the model has to be asked about these points before ``kept`` can tell."""
        return self._shared is None or self._shared[0] != model.version or self._shared[1] is not points

    def keep(self, points: Points, model: BoostedTrees, mean: np.ndarray, std: np.ndarray) -> None:
        """Take in what a trained model says of these points."""
        self._shared = (model.version, points, points.expected + TRUST * mean, std)

    def shared(self, points: Points, model: BoostedTrees) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log-seconds without own results."""
        if not model.trained or not len(points):  # it would say zero, give or take one: nothing that helps to choose
            return points.expected, np.zeros(len(points))
        mean, std = model.predict(points.rows)
        return points.expected + TRUST * mean, std
