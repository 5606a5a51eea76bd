"""All strategies by name."""

from __future__ import annotations

from math import inf

from tuner.errors import UserError
from tuner.search.strategies.base import Strategy
from tuner.search.strategies.dlfusion import DLFusion
from tuner.search.strategies.exhaustive import Exhaustive
from tuner.search.strategies.fixed import CoresAll, CoresGreedy, CoresLayers, FixedAll, FixedGreedy, FixedLayers
from tuner.search.strategies.joint import Joint
from tuner.search.strategies.none import Unoptimised
from tuner.search.strategies.random import RandomPlans
from tuner.search.strategies.tpe import Tpe

STRATEGIES: dict[str, type[Strategy]] = {
    each.name: each
    for each in (
        Joint, Unoptimised, FixedLayers, FixedGreedy, FixedAll, CoresLayers, CoresGreedy, CoresAll, DLFusion, Tpe,
        RandomPlans, Exhaustive,
    )
}  # fmt: skip


def strategy(name: str, **options: float) -> Strategy:
    """The strategy of this name.

    Options are numbers from 0 up, and whole ones where the default is whole.

    Raises:
        UserError: no such strategy (``unknown-strategy``); no such option, or not with this value (``bad-option``).
    """
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise UserError(f"There is no strategy {name!r}.", code="unknown-strategy", hint=f"Strategies are {known}.")
    found = STRATEGIES[name]
    for option, value in options.items():
        if option not in found.defaults:
            known = ", ".join(found.defaults) or "none"
            raise UserError(
                f"The strategy {name} has no option {option!r}.", code="bad-option", hint=f"It has: {known}."
            )
        whole = isinstance(found.defaults[option], int)
        if not 0 <= value < inf or (whole and value != int(value)):
            raise UserError(
                f"The option {option} of the strategy {name} is {value:g}.", code="bad-option",
                hint=f"It has to be a {'whole ' if whole else ''}number from 0 up.",
            )  # fmt: skip
    return found(**options)
