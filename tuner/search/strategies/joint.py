"""``joint``: fusion and cores together, by dynamic programming over what is measured and, where nothing is, predicted.

Each round finds the plan that is best under what is believed, and measures what is unknown in it; then the plans that
are best if everything unknown is one standard deviation faster than predicted, two, three (optimism in the face of
uncertainty), as long as they promise more than the best plan of known blocks and the round has room. Measured times
correct the predictions and teach the cost model, so either a plan holds what it promised, or another one takes its
place. When not even the most optimistic plan promises a gain of ``settled``, nothing more is predicted to gain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from tuner.errors import InternalError, UserError
from tuner.plan.partition import Choice, Table, best_partition, choice_seconds
from tuner.plan.space import Evaluation
from tuner.search.kriging import corrected
from tuner.search.strategies.base import Options, State, Strategy, evaluations_of, unknown


class Joint(Strategy):
    """Options: ``optimism``, the most standard deviations hoped for; ``settled``, the gain not worth a measurement."""

    name = "joint"
    defaults: ClassVar[Options] = {"optimism": 3.0, "settled": 0.002}

    def propose(self, state: State, count: int) -> list[Evaluation]:
        if state.predictor is None:
            raise UserError("The strategy joint needs a cost model.", code="no-model")
        mean, std = _expected(state)
        known = _best_known(state, mean)
        goal = np.inf if known is None else known.seconds * (1 - self.options["settled"])
        found: dict[Evaluation, None] = {}
        for optimism in np.arange(0.0, self.options["optimism"] + 0.5):
            if len(found) >= count:
                break
            hoped = _seconds(state, mean - optimism * np.where(np.isnan(state.seconds), std, 0.0))
            promised = best_partition(state.space, hoped)
            if promised.seconds <= goal:
                wanted = evaluations_of(state.space, promised)
                # The dearest blocks first: they decide, and teach the model about what matters.
                uses = {e: wanted.count(e) for e in wanted}
                dearest = sorted(uses, key=lambda e: -uses[e] * float(np.exp(mean[e])))
                found.update(dict.fromkeys(unknown(state, dearest, count)))
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


def _seconds(state: State, logs: np.ndarray) -> Table:
    """As seconds; inf where a measurement failed."""
    return np.where(np.isinf(state.seconds), np.inf, np.exp(logs))


def _best_known(state: State, mean: np.ndarray) -> Choice | None:
    """The plan of measured blocks alone that is expected to be the best; None while there is none."""
    try:
        return best_partition(state.space, np.where(np.isnan(state.seconds), np.nan, _seconds(state, mean)))
    except InternalError:
        return None
