"""``random``: plans drawn with equal chances, the baseline that every search has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

from tuner.errors import UserError
from tuner.plan.space import PlanSpace
from tuner.search.strategies.base import State
from tuner.search.strategies.whole import Whole, WholePlans

MOST_STATES = 200_000  # sets of layers left to cover, over which partitions are counted


class RandomPlans(WholePlans):
    """Every partition into legal blocks has the same chance; then every block's core count has."""

    name = "random"
    _drawn: tuple[PlanSpace, int, Random, Mapping[int, int], list[Whole]] | None = None  # so far, for which space, seed

    def plans(self, state: State) -> Iterator[Whole]:
        space = state.space
        if self._drawn is None or self._drawn[0] is not space or self._drawn[1] != state.seed:
            self._drawn = (space, state.seed, Random(state.seed), partitions(space), [])
        _, _, random, ways, drawn = self._drawn
        for number in range(int(self.options["plans"])):
            if number == len(drawn):
                drawn.append(_draw(space, random, ways))
            yield drawn[number]


def _draw(space: PlanSpace, random: Random, ways: Mapping[int, int]) -> Whole:
    """From the end of the model to its beginning, each block in proportion to the partitions that have it."""
    blocks: list[int] = []
    left = (1 << len(space.graph.layers)) - 1
    while left:
        ticket = random.randrange(ways[left])
        for index in space.by_sink[left.bit_length() - 1]:
            mask = space.blocks[index].mask
            if mask & left != mask:
                continue
            ticket -= ways[left & ~mask]
            if ticket < 0:
                break
        blocks.append(index)
        left &= ~mask
    blocks.reverse()
    return Whole.of(space, blocks, [random.choice(space.cores) for _ in blocks])


def partitions(space: PlanSpace) -> dict[int, int]:
    """Set of layers left to cover (as bits) -> in how many ways blocks can cover it, for every set that is met.

    Raises:
        UserError: there are too many such sets (``graph-too-wide``).
    """
    count = len(space.graph.layers)
    steps: dict[int, list[int]] = {(1 << count) - 1: []}  # set left -> the sets left after one more block
    by_last: list[list[int]] = [[] for _ in range(count + 1)]  # the sets by the number of their last layer
    by_last[count].append((1 << count) - 1)
    for last in range(count, 0, -1):
        for left in by_last[last]:
            for index in space.by_sink[last - 1]:
                mask = space.blocks[index].mask
                if mask & left != mask:
                    continue
                rest = left & ~mask
                steps[left].append(rest)
                if rest not in steps:
                    steps[rest] = []
                    by_last[rest.bit_length()].append(rest)
        if len(steps) > MOST_STATES:
            raise UserError(
                "The strategy random cannot count the plans of this model: too many of its branches run side by side.",
                code="graph-too-wide", hint="Limit the depth of blocks, or use another strategy.",
            )  # fmt: skip
    ways = {0: 1}
    for sets in by_last[1:]:
        for left in sets:
            ways[left] = sum(ways[rest] for rest in steps[left])
    return ways
