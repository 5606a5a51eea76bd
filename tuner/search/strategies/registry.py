"""All strategies by name."""

from __future__ import annotations

from tuner.errors import UserError
from tuner.search.strategies.base import Strategy
from tuner.search.strategies.dlfusion import DLFusion
from tuner.search.strategies.exhaustive import Exhaustive
from tuner.search.strategies.fixed import CoresAll, CoresGreedy, CoresLayers, FixedAll, FixedGreedy, FixedLayers
from tuner.search.strategies.joint import Joint
from tuner.search.strategies.none import Unoptimised
from tuner.search.strategies.options import check, parse
from tuner.search.strategies.random import RandomPlans
from tuner.search.strategies.tpe import Tpe

STRATEGIES: dict[str, type[Strategy]] = {
    each.name: each
    for each in (
        Joint, Unoptimised, FixedLayers, FixedGreedy, FixedAll, CoresLayers, CoresGreedy, CoresAll, DLFusion, Tpe,
        RandomPlans, Exhaustive,
    )
}  # fmt: skip


def strategy(asked: str, **options: float) -> Strategy:
    """The strategy of this name, which may carry options: ``tpe:plans=200``.

    Raises:
        UserError: no such strategy (``unknown-strategy``); no such option, or not with this value (``bad-option``).
    """
    name, given = parse(asked)
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise UserError(f"There is no strategy {name!r}.", code="unknown-strategy", hint=f"Strategies are {known}.")
    check(name, given | options)
    return STRATEGIES[name](**(given | options))
