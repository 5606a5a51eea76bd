"""``python -m bench.peers.without winograd,joins tune ...``: fusetune with parts taken out, for ablations.

A part is a kernel template, or one of PARTS. Only the process that decides does without it; those that build what it
asks for are not asked for any.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence


def take_out(names: Collection[str]) -> None:
    """Do without these from now on. Raises UserError for an unknown one."""
    from tuner.kernels import registry

    templates = [name for name in names if name not in PARTS]
    for name in templates:
        registry.template(name)
    registry.TEMPLATES = tuple(t for t in registry.TEMPLATES if t.name not in templates)
    for name in names:
        if name in PARTS:
            PARTS[name]()


def _joins() -> None:
    """Concatenations are kernels that copy."""
    from tuner.plan import joins

    joins.contiguous = lambda graph, layer, layout: False


def _lanes() -> None:
    """One block after the other."""
    from tuner import wholes

    wholes.side_by_side = lambda *_: None


PARTS: Mapping[str, Callable[[], None]] = {"joins": _joins, "lanes": _lanes}


def main(arguments: Sequence[str]) -> int:
    """The command: names of parts, then what fusetune is told."""
    from service.cli import main as fusetune

    take_out(arguments[0].split(","))
    return fusetune(list(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
