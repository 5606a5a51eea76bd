"""``exhaustive``: the oracle. Every block on every core count is measured; dynamic programming finds the best plan."""

from __future__ import annotations

from tuner.errors import UserError
from tuner.plan.space import PlanSpace
from tuner.search.strategies import schemes
from tuner.search.strategies.base import State
from tuner.search.strategies.restricted import Part, Restricted, few_counts, part_of


class Exhaustive(Restricted):
    """Options: ``limit``, the most evaluations it takes on; ``reduced`` = 1 for the reduced search.

    The reduced search, after the brute force that DLFusion (arXiv 2011.05630) compares itself with, tries few core
    counts (powers of two, and all cores) and few cuts: blocks are made of whole groups, a group being a layer and the
    elementwise layers fused behind it.
    """

    name = "exhaustive"

    def part(self, state: State) -> Part:
        space, limit = state.space, self.options["limit"]
        if self.options["reduced"]:
            part = part_of(space, _of_whole_groups(space), few_counts(space))
        else:
            part = part_of(space, range(len(space.blocks)), range(len(space.cores)))
        if part.evaluations > limit:
            raise UserError(
                f"The strategy exhaustive would measure {part.evaluations:,} evaluations; its limit is {limit:,.0f}.",
                code="space-too-large",
                hint=f"Consider fewer core counts{'' if self.options['reduced'] else ', use reduced=1,'} "
                f"or set limit={part.evaluations}.",
            )
        return part


def _of_whole_groups(space: PlanSpace) -> list[int]:
    """Indexes of the blocks that cut no group of the greedy scheme in two."""
    position = space.graph.position
    group = [0] * len(position)  # position of a layer -> the bit set of its group
    for layers in schemes.greedy(space):
        places = [position[i] for i in layers]
        for place in places:
            group[place] = sum(1 << i for i in places)
    return [
        index for index, block in enumerate(space.blocks)
        if all(not group[position[i]] & ~block.mask for i in block.layers)
    ]  # fmt: skip
