"""How good predictions are: figures for the report."""

from __future__ import annotations

import numpy as np


def rank_correlation(predicted: np.ndarray, measured: np.ndarray) -> float | None:
    """Spearman's rank correlation, -1..1; None for fewer than three samples or when all are equal."""
    if len(measured) < 3:
        return None
    a, b = _ranks(predicted), _ranks(measured)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2.0)[inverse]
