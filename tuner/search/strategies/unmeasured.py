"""Plans of the strategies whose choice does not depend on what is measured: fixed blocks on a fixed core count."""

from __future__ import annotations

from tuner.errors import InternalError
from tuner.plan.partition import Choice
from tuner.plan.space import PlanSpace
from tuner.search.strategies.base import State
from tuner.search.strategies.registry import strategy

UNMEASURED = ("fixed-greedy", "fixed-layers", "fixed-all", "none")  # the one that stands for a default plan first


def unmeasured(space: PlanSpace, name: str, **options: float) -> Choice:
    """The plan of a strategy in UNMEASURED with these options. Its ``seconds`` mean nothing.

    Every block is taken to last as long: in a space with several layouts, unlike those of simulated devices, measuring
    would decide between them.

    Raises:
        UserError: no such option, or the space lacks the core count that the strategy needs (``bad-option``).
        InternalError: the strategy's plan depends on measurements (``not-fixed``).
    """
    state, fixed = State(space), strategy(name, **options)
    if fixed.name not in UNMEASURED:
        raise InternalError(f"The plan of {name} depends on measurements.", code="not-fixed")
    while wanted := fixed.propose(state, space.evaluations):
        state.tell((e, 1.0) for e in wanted)
    return fixed.choose(state)
