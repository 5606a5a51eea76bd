"""Takes out of measured times what their moment did to them.

On a shared machine kernels take 1.0 to 1.7 times as long for spells of tenths of seconds to minutes, whichever it is.
Where many kernels are visited in random order, over and over, the visits just before and after one tell what its moment
was like: log-time = kernel + moment, fitted by medians in turns (Tukey's median polish, Exploratory Data Analysis,
1977, chapter 10), where a moment is what a visit's neighbours say and the visit itself does not.
"""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 5  # visits on either side
ROUNDS = 8
CALM = 0.05  # share of the moments that count as undisturbed: they are the level that times are given at


def without_drift(kernels: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Seconds ``[visits]`` as they would have been in calm moments.

    Args:
        kernels: which kernel each visit was to, ``[visits]``, numbers from 0, in the order of the visits.
        seconds: what each visit took, ``[visits]``.
    """
    if not len(seconds):
        return np.zeros(0)
    logs = np.log(seconds)
    level = np.zeros(len(logs))
    for _ in range(ROUNDS):
        level = _moments(logs - _medians(kernels, logs - level)[kernels])
    return np.asarray(np.exp(logs - level + np.quantile(level, CALM)))


def _medians(kernels: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Of each kernel's visits."""
    order = np.argsort(kernels, kind="stable")
    found = np.split(logs[order], np.cumsum(np.bincount(kernels))[:-1])
    return np.asarray([np.median(visits) if len(visits) else np.nan for visits in found])


def _moments(residuals: np.ndarray) -> np.ndarray:
    """The median of each visit's neighbours, itself left out."""
    padded = np.pad(residuals, NEIGHBOURS, mode="symmetric")
    shifts = [d for d in range(2 * NEIGHBOURS + 1) if d != NEIGHBOURS]
    return np.asarray(np.median([padded[d : d + len(residuals)] for d in shifts], axis=0))
