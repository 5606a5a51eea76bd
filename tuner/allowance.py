"""How a job divides its time budget: what is kept back from the search for building and comparing whole models."""

from __future__ import annotations

from math import inf

from tuner.builds import BuildCost

FINISH_SECONDS = 5.0  # kept back for profiling and writing ...
COMPARE_SECONDS = (7.0, 20.0)  # ... and at least and at most so much for timing whole models in turns ...
COMPARE_CALLS = 150  # ... between which it is about so many calls of the default plan
FINISH_BUILDS = 1.5  # and so many times what building a plan takes, for each plan found ...
BASELINE_BUILDS = 2.5  # ... and so many times what building the default plan took, for unoptimised and unfused
BASELINES_SHARE = 0.2  # of the budget; where building these two takes more, and more than ...
BASELINES_LEAST = 20.0  # ... so many seconds, they are left out and the search has the time
FINISH_LOOKS = 2.0  # and so many times what the first look took: engines start and load again to compare and to verify
SEARCH_LEAST = 0.3  # of the budget that is left after the first look, which the search gets whatever is kept back


def build_seconds(first: BuildCost, plans: int, missing: float, *, baselines: bool) -> float:
    """Seconds for building the plans that a search may find, and the baselines.

    Args:
        first: what building the default plan took.
        plans: at most so many.
        missing: share of their kernels that the search leaves to be compiled.
    """
    return FINISH_BUILDS * plans * first.of(missing) + (baseline_seconds(first) if baselines else 0.0)


def baseline_seconds(first: BuildCost) -> float:
    """Seconds for building unoptimised and unfused; ``first`` as above."""
    return BASELINE_BUILDS * first.of(1.0)


def why_no_baselines(budget: float | None, first: BuildCost) -> str | None:
    """Why unoptimised and unfused are left out of a job of ``budget`` seconds; None if they are not."""
    seconds = baseline_seconds(first)
    if budget is None or seconds <= max(BASELINES_LEAST, BASELINES_SHARE * budget):
        return None
    return f"Building it and its like would take about {seconds:.0f} of the {budget:g} seconds."


def why_no_time(budget: float | None, now: float, building: float, comparing: float) -> str | None:
    """Why a plan that takes ``building`` seconds is left out at the end of a search; None if it is not.

    What is built shortly is built in any case.
    """
    left = inf if budget is None else budget - now - comparing - FINISH_SECONDS
    if building <= max(BASELINES_LEAST / 2, left):
        return None
    return f"Building it would take about {building:.0f} seconds, and {max(0.0, left):.0f} of {budget:g} are left."


def compare_seconds(whole: float | None, blocks: float | None, left: float | None) -> float:
    """Seconds for timing whole models: enough rounds to tell an interval from, where that is bearable.

    Args:
        whole: seconds of the default plan, timed as a whole.
        blocks: what the blocks take together, which tells how long a model takes where no whole was timed.
        left: seconds of the budget that are left.
    """
    least, most = COMPARE_SECONDS
    if whole:
        return min(most, max(least, COMPARE_CALLS * whole))
    left = most if left is None else left - FINISH_SECONDS
    return min(most, max(least, min(COMPARE_CALLS * (blocks or 0.0), left)))


def search_end(budget: float, now: float, building: float, comparing: float, look: float) -> float:
    """When a search has to end, in seconds since the job began.

    Args:
        building, comparing: as above.
        look: seconds that the first look took.
    """
    end = budget - FINISH_SECONDS - building - comparing - FINISH_LOOKS * look
    return max(end, now + SEARCH_LEAST * (budget - now))
