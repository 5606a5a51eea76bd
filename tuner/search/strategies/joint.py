"""``joint``: fusion and cores together, by dynamic programming over what is measured and, where nothing is, predicted.

Each round finds the plan that would be best if everything unknown were a little faster than predicted (optimism in the
face of uncertainty), and measures what is unknown in it. Measured times replace predictions and teach the cost model,
so either the plan holds what it promised, or another one takes its place. When the optimistic plan is known in whole,
or promises less than ``settled`` over the best known one, nothing more is predicted to gain.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tuner.errors import InternalError, UserError
from tuner.plan.partition import Choice, best_partition
from tuner.plan.space import Evaluation
from tuner.search.strategies.base import Options, State, Strategy, evaluations_of, unknown


class Joint(Strategy):
    """Options: ``optimism`` in standard deviations; ``settled``, the share of the time not worth a measurement."""

    name = "joint"
    defaults: ClassVar[Options] = {"optimism": 1.0, "settled": 0.002}

    def propose(self, state: State, count: int) -> list[Evaluation]:
        if state.predictor is None:
            raise UserError("The strategy joint needs a cost model.", code="no-model")
        promised = best_partition(state.space, state.believed(self.options["optimism"]))
        wanted = evaluations_of(state.space, promised)
        known = self._known(state)
        if known is not None and promised.seconds > known.seconds * (1 - self.options["settled"]):
            return []
        # The dearest blocks first: they decide, and teach the model about what matters.
        believed = state.believed()
        uses = {e: wanted.count(e) for e in wanted}
        return unknown(state, sorted(uses, key=lambda e: -uses[e] * float(np.nan_to_num(believed[e]))), count)

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
