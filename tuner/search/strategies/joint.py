"""``joint``: fusion and cores together, by dynamic programming over what is measured and, where nothing is, predicted.

Each round finds the plan that is best under what is believed, and measures what is unknown in it. Measured times take
the place of predictions and teach the cost model, so either the plan holds what it promised, or another one takes its
place. When the believed best is known in whole, everything unknown is taken to be one standard deviation faster than
predicted, then two, then three (optimism in the face of uncertainty). When not even the most optimistic plan promises
more than ``settled`` over the best known one, nothing more is predicted to gain.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tuner.errors import InternalError, UserError
from tuner.plan.partition import Choice, best_partition
from tuner.plan.space import Evaluation
from tuner.search.strategies.base import Options, State, Strategy, evaluations_of, unknown


class Joint(Strategy):
    """Options: ``optimism``, the most standard deviations hoped for; ``settled``, the gain not worth a measurement."""

    name = "joint"
    defaults: ClassVar[Options] = {"optimism": 3.0, "settled": 0.002}

    def propose(self, state: State, count: int) -> list[Evaluation]:
        if state.predictor is None:
            raise UserError("The strategy joint needs a cost model.", code="no-model")
        known = self._known(state)
        goal = np.inf if known is None else known.seconds * (1 - self.options["settled"])
        for optimism in np.arange(0.0, self.options["optimism"] + 0.5):
            promised = best_partition(state.space, state.believed(float(optimism)))
            if promised.seconds > goal:
                continue
            wanted = evaluations_of(state.space, promised)
            # The dearest blocks first: they decide, and teach the model about what matters.
            believed = state.believed()
            uses = {e: wanted.count(e) for e in wanted}
            found = unknown(state, sorted(uses, key=lambda e: -uses[e] * float(np.nan_to_num(believed[e]))), count)
            if found:
                return found
        return []

    def choose(self, state: State) -> Choice:
        known = self._known(state)
        return best_partition(state.space, state.believed()) if known is None else known

    @staticmethod
    def _known(state: State) -> Choice | None:
        """The best plan of measured blocks alone."""
        try:
            return best_partition(state.space, state.seconds)
        except InternalError:
            return None
