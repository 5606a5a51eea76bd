"""``none``: the baseline "unoptimised"."""

from __future__ import annotations

from tuner.search.strategies import schemes
from tuner.search.strategies.base import State
from tuner.search.strategies.restricted import Part, Restricted, blocks_of, column_of, part_of


class Unoptimised(Restricted):
    """Every layer its own block on one core."""

    name = "none"

    def part(self, state: State) -> Part:
        space = state.space
        return part_of(space, blocks_of(space, schemes.layers(space)), [column_of(space, 1, self.name)])
