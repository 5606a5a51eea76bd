"""All strategies by name."""

from __future__ import annotations

from tuner.errors import UserError
from tuner.search.strategies.base import Strategy
from tuner.search.strategies.joint import Joint

STRATEGIES: dict[str, type[Strategy]] = {each.name: each for each in (Joint,)}


def strategy(name: str, **options: float) -> Strategy:
    """The strategy of this name.

    Raises:
        UserError: no such strategy (``unknown-strategy``) or option (``bad-option``).
    """
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise UserError(f"There is no strategy {name!r}.", code="unknown-strategy", hint=f"Strategies are {known}.")
    found = STRATEGIES[name]
    for option in options:
        if option not in found.defaults:
            known = ", ".join(found.defaults) or "none"
            raise UserError(
                f"The strategy {name} has no option {option!r}.", code="bad-option", hint=f"It has: {known}."
            )
    return found(**options)
