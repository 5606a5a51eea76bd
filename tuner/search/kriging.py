"""Corrects predictions of blocks by what was measured of the same blocks (kriging of the residuals).

What a model gets wrong about a block it gets wrong about that block on any number of cores, the less alike the further
apart the counts are. So one measurement corrects the whole block; and a time measured with noise is believed as far as
it is likelier than what was expected: of many noisy times the least is one that noise made small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ALIKE = 6.0  # octaves of core counts, over which the likeness of a block's errors falls to 1/e
NOISE = 0.01  # log-seconds: standard deviation of one evaluation's measured time


def corrected(
    mean: np.ndarray, std: np.ndarray, seconds: np.ndarray, cores: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log-seconds, given what was measured of the same blocks; all [questions, cores].

    A block that is further off than was thought possible is less certain on its other core counts, too.
    """
    mean, std = mean.copy(), std.copy()
    known = np.isfinite(seconds) & (seconds > 0)
    octaves = np.log2(np.asarray(cores, dtype=np.float64))
    alike = np.exp(-np.abs(octaves[:, None] - octaves) / ALIKE)
    for q in np.flatnonzero(known.any(axis=1)):
        at = known[q]
        off = np.log(seconds[q, at]) - mean[q, at]
        scale = std[q] * max(1.0, float(np.sqrt(np.mean((off / std[q, at]) ** 2))))
        covariance = alike * np.outer(scale, scale)
        gain = np.linalg.solve(covariance[np.ix_(at, at)] + NOISE**2 * np.eye(len(off)), covariance[at])  # [n, cores]
        mean[q] += off @ gain
        std[q] = np.sqrt(np.maximum(scale**2 - (gain * covariance[at]).sum(axis=0), 0.0))
    return mean, std
