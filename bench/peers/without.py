"""``python -m bench.peers.without winograd,lrn tune ...``: fusetune with kernel templates taken out, for ablations.

Only the process that decides does without them; those that build what it asks for are not asked for any.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence


def take_out(names: Collection[str]) -> None:
    """Do without these templates from now on. Raises UserError for an unknown one."""
    from tuner.kernels import registry

    for name in names:
        registry.template(name)
    registry.TEMPLATES = tuple(t for t in registry.TEMPLATES if t.name not in names)


def main(arguments: Sequence[str]) -> int:
    """The command: template names, then what fusetune is told."""
    from service.cli import main as fusetune

    take_out(arguments[0].split(","))
    return fusetune(list(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
