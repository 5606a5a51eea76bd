"""How good predictions are: figures for reports, always of workloads that the predictor had not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TOPS = (1, 8)

# (rows to learn from, their log-seconds, rows to predict) -> (mean, standard deviation) of log-seconds
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Quality:
    """Figures of predictions of log-seconds. None = too few samples to say.

    ``recall``: top-k, the share of the k fastest measured that are among the k predicted fastest, where times are
    compared by what the workload is worth (see ``unit`` of ``judge``).
    """

    samples: int
    workloads: int
    rank_correlation: float | None  # Spearman's, over all samples
    recall: dict[int, float | None]  # k -> share
    median_error: float | None  # |predicted / measured - 1|
    p90_error: float | None
    within_1_std: float | None  # of the errors; 0.683 if they were normal and the std right
    within_2_std: float | None  # 0.954
    median_std: float | None  # log-seconds

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"recall": {str(k): v for k, v in self.recall.items()}}


def judge(
    predicted: np.ndarray, std: np.ndarray, measured: np.ndarray, workloads: np.ndarray, unit: np.ndarray | None = None
) -> Quality:
    """Compare predictions with measurements.

    Args:
        predicted, std, measured: ``[n]`` log-seconds.
        workloads: ``[n]`` number of each sample's workload.
        unit: ``[n]`` log of what the time is divided by before samples are compared in rank and recall (their
            operations, say: then it is rates that are compared); None compares times.
    """
    count = len(measured)
    if not count:
        return Quality(0, 0, None, dict.fromkeys(TOPS), None, None, None, None, None)
    error = np.abs(np.expm1(predicted - measured))
    size = np.abs(predicted - measured)
    unit = np.zeros(count) if unit is None else unit
    return Quality(
        samples=count,
        workloads=len(np.unique(workloads)),
        rank_correlation=rank_correlation(predicted - unit, measured - unit),
        recall={k: top_recall(predicted - unit, measured - unit, k) for k in TOPS},
        median_error=float(np.median(error)),
        p90_error=float(np.percentile(error, 90)),
        within_1_std=float(np.mean(size <= std)),
        within_2_std=float(np.mean(size <= 2 * std)),
        median_std=float(np.median(std)),
    )


def held_out(
    predict: Predict, rows: np.ndarray, measured: np.ndarray, workloads: np.ndarray, folds: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std) ``[n]`` of each sample as predicted after learning from other workloads only (grouped k-fold).

    Needs at least two workloads.
    """
    fold = folds_of(workloads, folds, seed)
    mean, std = np.empty(len(measured)), np.empty(len(measured))
    for k in range(int(fold.max()) + 1):
        out = fold == k
        mean[out], std[out] = predict(rows[~out], measured[~out], rows[out])
    return mean, std


def folds_of(workloads: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Number of each sample's fold ``[n]``: workloads are dealt at random, as evenly as possible, and never split."""
    _, number = np.unique(workloads, return_inverse=True)
    count = int(number.max()) + 1
    dealt: np.ndarray = np.random.default_rng(seed).permutation(count) % min(folds, count)
    return dealt[number.reshape(-1)]


def top_recall(predicted: np.ndarray, measured: np.ndarray, k: int) -> float | None:
    """The share of the ``k`` least measured that are among the ``k`` least predicted; None for k samples or fewer."""
    if len(measured) <= k:
        return None
    best = set(np.argsort(measured, kind="stable")[:k].tolist())
    return len(best & set(np.argsort(predicted, kind="stable")[:k].tolist())) / k


def choice_recall(predicted: np.ndarray, measured: np.ndarray, workloads: np.ndarray, k: int) -> float | None:
    """How often the fastest of a workload's samples is among its ``k`` predicted fastest.

    Over workloads with more than ``k`` samples; None when there is none.
    """
    hits = []
    for number in np.unique(workloads):
        own = workloads == number
        if own.sum() > k:
            best = int(np.argmin(measured[own]))
            hits.append(best in np.argsort(predicted[own], kind="stable")[:k].tolist())
    return float(np.mean(hits)) if hits else None


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
