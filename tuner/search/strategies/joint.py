"""``joint``: fusion and cores together, by dynamic programming over what is measured and, where nothing is, predicted.

Each round finds the plan that is best under what is believed, and measures what is unknown in it; then the plans that
are best if everything unknown is one standard deviation faster than predicted, two, and so on (optimism in the face of
uncertainty), as long as they promise more than the best plan of known blocks and the round has room. Of an optimistic
plan those blocks come first from which most is hoped for; what is hardly uncertain is not measured. Measured times
correct the predictions and teach the cost model, so either a plan holds what it promised, or another one takes its
place. When not even the most optimistic plan promises a gain of ``settled``, nothing more is predicted to gain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from tuner.errors import InternalError, UserError
from tuner.plan.partition import Choice, Table, best_partition, choice_seconds
from tuner.plan.space import Evaluation
from tuner.search.kriging import corrected
from tuner.search.strategies.base import State, Strategy, evaluations_of, unknown


class Joint(Strategy):
    """Options: ``optimism``, the most standard deviations hoped for; ``settled``, the gain not worth a measurement.

    Errors of the cost model have heavy tails: of blocks unlike all that was measured, some are off by far more than
    three deviations, so ``optimism`` goes beyond what normal errors would need.
    """

    name = "joint"

    def propose(self, state: State, count: int) -> list[Evaluation]:
        if state.predictor is None:
            raise UserError("The strategy joint needs a cost model.", code="no-model")
        mean, std = _expected(state)
        known = _best_known(state, mean)
        settled = self.options["settled"]
        goal = np.inf if known is None else known.seconds * (1 - settled)
        found: dict[Evaluation, None] = {}
        for optimism in np.arange(0.0, self.options["optimism"] + 0.5):
            if len(found) >= count or (found and known is None):
                break
            hoped = _seconds(state, mean - optimism * np.where(np.isnan(state.seconds), std, 0.0))
            promised = best_partition(state.space, hoped)
            if promised.seconds <= goal:
                found.update(dict.fromkeys(_worth(state, promised, mean, optimism * std, goal * settled)))
        return list(found)[: min(count, state.left)]

    def choose(self, state: State) -> Choice:
        mean, _ = _expected(state)
        known = _best_known(state, mean)
        if known is None:
            return best_partition(state.space, _seconds(state, mean))
        return replace(known, seconds=choice_seconds(state.space, known, state.seconds))


def _expected(state: State) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log-seconds under all that is known, each ``[questions, cores]``."""
    return corrected(*state.predicted, state.seconds, state.space.cores)


def _worth(state: State, promised: Choice, mean: np.ndarray, hope: np.ndarray, settled: float) -> list[Evaluation]:
    """What is unknown of a plan, that first from which most is hoped for.

    ``hope``: log-seconds less than expected, [questions, cores]. What all of the rest could gain is not worth
    ``settled`` seconds, unless nothing is hoped for: then the plan itself is to become known.
    """
    uses = Counter(evaluations_of(state.space, promised))
    expected = {e: uses[e] * float(np.exp(mean[e])) for e in unknown(state, list(uses), state.left)}
    gain = {e: seconds * -float(np.expm1(-hope[e])) for e, seconds in expected.items()}
    ranked = sorted(expected, key=lambda e: (gain[e], expected[e]))
    spared = np.searchsorted(np.cumsum([gain[e] for e in ranked]), settled) if any(gain.values()) else 0
    return ranked[int(spared) :][::-1]


def _seconds(state: State, logs: np.ndarray) -> Table:
    """As seconds; inf where a measurement failed."""
    return np.where(np.isinf(state.seconds), np.inf, np.exp(logs))


def _best_known(state: State, mean: np.ndarray) -> Choice | None:
    """The plan of measured blocks alone that is expected to be the best; None while there is none."""
    try:
        return best_partition(state.space, np.where(np.isnan(state.seconds), np.nan, _seconds(state, mean)))
    except InternalError:
        return None
