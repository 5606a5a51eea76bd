"""Names of all strategies and what each may be told. Pure Python: requests are checked without loading NumPy.

A strategy is asked for by its name, or with options: ``tpe:plans=200,startup=10``.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from tuner.errors import UserError

Options = Mapping[str, float]

# Defaults by strategy; what they mean stands in each strategy's class.
OPTIONS: Mapping[str, Options] = {
    "joint": {"optimism": 5.0, "settled": 0.002},
    "dlfusion": {"saturation": 0.9, "per_core": 0},
    "exhaustive": {"limit": 20_000, "reduced": 0},
    "random": {"plans": 1000},
    "tpe": {"plans": 500, "startup": 20},
    "none": {},
    "fixed-layers": {"cores": 0},
    "fixed-greedy": {"cores": 0},
    "fixed-all": {"cores": 0},
    "cores-layers": {"powers": 0},
    "cores-greedy": {"powers": 0},
    "cores-all": {"powers": 0},
}


def parse(text: str) -> tuple[str, dict[str, float]]:
    """Name and given options of ``NAME`` or ``NAME:option=number,...``.

    Raises:
        UserError: no option=number after the colon (``bad-option``). Names are not looked at.
    """
    name, colon, rest = text.partition(":")
    found: dict[str, float] = {}
    for pair in rest.split(",") if colon else ():
        option, equals, value = pair.partition("=")
        try:
            found[option.strip()] = float(value) if equals else float("nan")
        except ValueError:
            found[option.strip()] = float("nan")
        if found[option.strip()] != found[option.strip()]:
            raise UserError(
                f"The strategy {text!r} has {pair!r} where option=number is expected.", code="bad-option",
                hint=f"For example {name}:{example(name)}." if OPTIONS.get(name) else f"{name} has no options.",
            )  # fmt: skip
    return name, found


def check(name: str, options: Options) -> None:
    """Raise UserError for an option that the strategy lacks or that cannot have this value (``bad-option``).

    Options are numbers from 0 up, and whole ones where the default is whole.
    """
    defaults = OPTIONS.get(name, {})
    for option, value in options.items():
        if option not in defaults:
            known = ", ".join(defaults) or "none"
            raise UserError(
                f"The strategy {name} has no option {option!r}.", code="bad-option", hint=f"It has: {known}."
            )
        whole = isinstance(defaults[option], int)
        if not 0 <= value < inf or (whole and value != int(value)):
            raise UserError(
                f"The option {option} of the strategy {name} is {value:g}.", code="bad-option",
                hint=f"It has to be a {'whole ' if whole else ''}number from 0 up.",
            )  # fmt: skip


def example(name: str) -> str:
    """The strategy's options with their defaults, as they are written."""
    return ",".join(f"{option}={value:g}" for option, value in OPTIONS[name].items())
