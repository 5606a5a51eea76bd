"""What one question's own measurements say beyond a model of all questions: a Gaussian process on its residuals.

A few measurements of the very kernel in question tell more than thousands of others, but boosted trees cannot
extrapolate from a few. The process has a Matern-5/2 kernel and an unknown offset; its length scale and amplitude are
the likeliest of a small grid (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np
from scipy.linalg.lapack import dtrtrs

LENGTHS = (0.5, 1.0, 2.0, 4.0)  # in the coordinates' unit
AMPLITUDES = (0.05, 0.1, 0.2, 0.4, 0.8)  # log-seconds
OFFSET = 1.0  # log-seconds: how far all of a question's times may lie from what was expected
NOISE = 0.02  # log-seconds: what a measurement scatters by


@dataclass(frozen=True)
class Residuals:
    """A process conditioned on residuals (measured minus expected log-seconds) at some points."""

    points: np.ndarray  # [n, coordinates]
    values: np.ndarray  # [n]
    length: float
    amplitude: float

    @staticmethod
    def fit(points: np.ndarray, values: np.ndarray) -> Residuals:
        """The likeliest process; with little data the one in the middle of the grid is preferred."""
        distances = _distances(points, points)
        best = (-np.inf, LENGTHS[2], AMPLITUDES[2])
        for length in LENGTHS:
            shape = _matern(distances / length)
            factors = _cholesky(np.stack([amplitude**2 * shape + OFFSET**2 for amplitude in AMPLITUDES]))
            for amplitude, factor in zip(AMPLITUDES, factors, strict=True):
                plausible = -0.5 * log(length / 2.0) ** 2 - 0.25 * log(amplitude / 0.3) ** 2
                best = max(best, (_likelihood(factor, values) + plausible, length, amplitude))
        return Residuals(points, values, best[1], best[2])

    def at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation) of the residual at points [m, coordinates]."""
        if not len(self.values):
            return np.zeros(len(points)), np.full(len(points), self.amplitude)
        white = self._white(points)
        mean = white.T @ _solve(self._factor, self.values)
        left = self.amplitude**2 + OFFSET**2 - (white**2).sum(axis=0)
        return mean, np.sqrt(np.clip(left, NOISE**2, None))

    def covariance(self, points: np.ndarray) -> np.ndarray:
        """Of the residuals at points, ``[m, m]``."""
        prior = self._kernel(points, points)
        if not len(self.values):
            return prior
        white = self._white(points)
        return np.asarray(prior - white.T @ white)

    @cached_property
    def _factor(self) -> np.ndarray:
        return _cholesky(self._kernel(self.points, self.points))

    def _white(self, points: np.ndarray) -> np.ndarray:
        return _solve(self._factor, self._kernel(self.points, points))

    def _kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(self.amplitude**2 * _matern(_distances(a, b) / self.length) + OFFSET**2)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.clip(squares, 0, None)))


def _matern(scaled: np.ndarray) -> np.ndarray:
    root = 5**0.5 * scaled
    return np.asarray((1 + root + root**2 / 3) * np.exp(-root))


def _cholesky(kernels: np.ndarray) -> np.ndarray:
    """Of one kernel [n, n], or of several [k, n, n]."""
    return np.asarray(np.linalg.cholesky(kernels + NOISE**2 * np.eye(kernels.shape[-1])))


def _solve(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """x of factor x = right, where ``factor`` is lower triangular.

    LAPACK's own function: what scipy does around it takes several times as long where there are few points.
    """
    if not right.size:
        return right
    return np.asarray(dtrtrs(factor.T, right, lower=0, trans=1)[0])  # its arrays lie by columns


def _likelihood(factor: np.ndarray, values: np.ndarray) -> float:
    white = _solve(factor, values)
    return float(-0.5 * white @ white - np.log(np.diag(factor)).sum())
