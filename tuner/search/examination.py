"""How well the two cost models of a job predict what they have not seen: figures for its report.

A model that is examined learns from all workloads but some and predicts those; no workload is ever on both sides. What
the search itself predicted is another matter: it had seen other core counts and knobs of the same workloads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cost_model.block_features import INDEX
from cost_model.block_model import BlockModel, workloads_of
from cost_model.boosted import BoostedTrees
from cost_model.quality import Quality, choice_recall, folds_of, judge
from tuner.search.features import Features
from tuner.search.knobs import KnobSearch
from tuner.search.predictor import BlockPredictor
from tuner.search.samples import Samples
from tuner.search.strategies.base import State

FEWEST_BLOCKS = 12  # evaluations, below which the block model is not judged
FEWEST_TRIALS = 30  # successful trials, below which the knob model is not judged
MOST_BLOCKS, MOST_TRIALS = 300, 600  # what is judged of more, evenly taken
FOLDS = 3


@dataclass(frozen=True)
class Figures:
    """How well a model predicts workloads that it has not seen; ``reason`` says why there is nothing to say."""

    samples: int  # measured times that are predicted
    workloads: int
    rank_correlation: float | None = None  # Spearman's, -1 to 1
    top1: float | None = None  # how much of the fastest is found among as many predicted fastest, 0 to 1
    top8: float | None = None
    median_error: float | None = None  # |predicted / measured - 1|
    within_one: float | None = None  # share of the errors within one standard deviation; 0.68 if it is right
    within_two: float | None = None  # 0.95
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}

    @staticmethod
    def of(quality: Quality, recall: Mapping[int, float | None]) -> Figures:
        return Figures(
            quality.samples, quality.workloads, quality.rank_correlation, recall[1], recall[8], quality.median_error,
            quality.within_1_std, quality.within_2_std,
        )  # fmt: skip


def examine_blocks(predictor: BlockPredictor, state: State) -> Figures:
    """The block model on the evaluations that a job knows, learned from all else known of the device and relatives.

    Top-k: the share of the k evaluations of the highest measured rate that are among the k of the highest predicted.
    """
    good = [e for e in state.order if 0.0 < state.seconds[e] < np.inf]
    good = good[:: -(-len(good) // MOST_BLOCKS) or 1]
    at = tuple(np.asarray(good, dtype=int).reshape(-1, 2).T)
    own = Samples.of(predictor.features[at].astype(np.float64), state.seconds[at])
    every = own if predictor.samples is None else Samples.joined([own, predictor.samples])
    workload, asked = workloads_of(every.rows), len(own)
    found = len(np.unique(workload[:asked]))
    if asked < FEWEST_BLOCKS or found < 2:
        return Figures(asked, found, reason=_few("evaluations were measured", asked, FEWEST_BLOCKS, found))
    fold = folds_of(workload, FOLDS)
    mean, std = np.empty(asked), np.empty(asked)
    for number in np.unique(fold[:asked]):
        seen, out = fold != number, fold[:asked] == number
        model = BlockModel(predictor.model.machine, predictor.model.seed)
        model.fit(every.rows[seen], every.seconds[seen], every.weights[seen], every.groups[seen])
        mean[out], std[out] = model.predict(own.rows[out])
    rates = np.log(np.maximum(own.rows[:, INDEX["ops"]], 1.0))
    quality = judge(mean, std, np.log(own.seconds), workload[:asked], rates)
    return Figures.of(quality, quality.recall)


def examined(state: State) -> Figures | None:
    """``examine_blocks`` for the model that predicted a state; None if none was asked."""
    predictor = state.predictor
    if not isinstance(predictor, BlockPredictor) or not predictor.asked:
        return None
    return examine_blocks(predictor, state)


def examine_knobs(searches: Iterable[KnobSearch]) -> Figures:
    """The model that ranks knobs, on the trials that a job knows of questions with at least two.

    It predicts how points of one question compare: times are over their question's median. Top-k: of how many
    questions the fastest point is among the k predicted fastest, where there are more than k.
    """
    rows, targets, question, names = [], [], [], []
    searches = [s for s in searches if len(s.ranked(2)) > 1]
    for number, search in enumerate(searches):
        known = search.ranked(len(search.results))
        known = known[:: -(-len(known) * len(searches) // MOST_TRIALS) or 1]
        points = [knobs for knobs, _ in known]
        asked = search.candidate
        features = Features(search.workload, asked.template, asked.cores, search.device, asked.layouts)
        rows.append(features.rows(points))
        targets.append(features.targets(points, np.log([seconds for _, seconds in known])))
        question += [number] * len(points)
        names += [search.candidate.workload_hash] * len(points)
    count, found = len(names), len(set(names))
    if count < FEWEST_TRIALS or found < 2:
        return Figures(
            count, found, reason=_few("trials are of kernels tried with several knobs", count, FEWEST_TRIALS, found)
        )
    every, measured, numbers = np.concatenate(rows), np.concatenate(targets), np.array(question)
    workload = np.unique(names, return_inverse=True)[1].reshape(-1)
    fold = folds_of(workload, FOLDS)
    mean, std = np.empty(count), np.empty(count)
    for number in np.unique(fold):
        out = fold == number
        model = BoostedTrees()
        model.update(every[~out], measured[~out])
        mean[out], std[out] = model.predict(every[out])
    quality = judge(mean, std, measured, workload)
    return Figures.of(quality, {k: choice_recall(mean, measured, numbers, k) for k in (1, 8)})


def _few(what: str, count: int, fewest: int, workloads: int) -> str:
    """Why nothing can be said."""
    if count < fewest:
        return f"Only {count} {what}; it takes {fewest}."
    return f"All {count} are of {workloads} workload; it takes two to hold one out."
