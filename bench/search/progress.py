"""One search on a simulated device, watched: how good its plan truly is after each batch of measurements."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.search.spaces import SimSpace
from tuner.errors import InternalError
from tuner.plan.partition import choice_seconds
from tuner.search.strategies.base import Predictor, State, Strategy

BATCH = 16  # evaluations asked of a strategy at once
LEVELS = (90, 95, 99)  # percent of the oracle


@dataclass
class Progress:
    """What a search has come to. ``curve``: (evaluations measured, true seconds of the plan it would choose)."""

    curve: list[tuple[int, float]] = field(default_factory=list)
    deciding: float = 0.0  # seconds of processor time
    rounds: int = 0
    slowest: float = 0.0  # round, in seconds of processor time

    def percents(self, oracle: float) -> list[tuple[int, float]]:
        """(evaluations measured, percent of the oracle's speed)."""
        return [(measured, percent(oracle, seconds)) for measured, seconds in self.curve]


def percent(oracle: float, seconds: float) -> float:
    """Of the oracle's speed that a plan of so many seconds has: 100 = as fast."""
    return 100.0 * oracle / seconds


def reached(percents: Sequence[tuple[int, float]], level: float) -> int | None:
    """Measurements after which the plan is, and stays, at this percent of the oracle's speed; None = it never is."""
    found = None
    for measured, share in percents:
        if share < level:
            found = None
        elif found is None:
            found = measured
    return found


def follow(space: SimSpace, strategy: Strategy, seed: int, budget: int | None, predictor: Predictor | None) -> Progress:
    """Run a search to its end against the simulated machine with its noise."""
    state = State(space.plans, seed, budget, predictor)
    progress = Progress()
    while state.left:
        began = time.process_time()
        wanted = strategy.propose(state, BATCH)
        spent = time.process_time() - began
        progress.deciding += spent
        progress.slowest = max(progress.slowest, spent)
        _note(progress, space, strategy, state)
        if not wanted:
            return progress
        progress.rounds += 1
        state.tell((e, space.measure(e, seed)) for e in wanted)
    _note(progress, space, strategy, state)
    return progress


def _note(progress: Progress, space: SimSpace, strategy: Strategy, state: State) -> None:
    try:
        choice = strategy.choose(state)
    except InternalError:
        return
    found = (state.measured, choice_seconds(space.plans, choice, space.table))
    if not progress.curve or progress.curve[-1] != found:
        progress.curve.append(found)


def row(space: SimSpace, progress: Progress, unoptimised: float, budget: int | None) -> dict[str, Any]:
    """What is kept of a search."""
    oracle, evaluations = space.oracle.seconds, space.plans.evaluations
    percents = progress.percents(oracle)
    measured, seconds = progress.curve[-1]
    return {
        "depth": space.depth,
        "evaluations": evaluations,
        "oracle_seconds": oracle,
        "none_seconds": unoptimised,
        "seconds": seconds,
        "percent": round(percent(oracle, seconds), 3),
        "speedup": round(unoptimised / seconds, 4),
        "budget": budget,
        "measured": measured,
        "share": measured / evaluations,
        "reached": {str(level): reached(percents, level) for level in LEVELS},
        "deciding": round(progress.deciding, 3),
        "rounds": progress.rounds,
        "slowest_round": round(progress.slowest, 3),
        "curve": [[n, round(share, 2)] for n, share in percents],
    }
