"""What DLFusion (arXiv 2011.05630) compares itself with: a fusion scheme that is fixed beforehand.

``fixed-*`` also fix the core count, the same for each block; ``cores-*`` measure each block on every core count and
keep its best. Which of these the paper has is from memory: fixed counts, the best count per layer, fuse-all on all
cores, and fusion with a fixed count; ``cores-greedy`` and ``cores-all`` complete the set.
"""

from __future__ import annotations

from abc import abstractmethod

from tuner.plan.space import PlanSpace
from tuner.search.strategies import schemes
from tuner.search.strategies.base import State
from tuner.search.strategies.restricted import Part, Restricted, blocks_of, column_of, few_counts, part_of


class _Fixed(Restricted):
    """Option: ``cores`` of every block; 0 = as many as there are."""

    @abstractmethod
    def scheme(self, space: PlanSpace) -> schemes.Scheme:
        """The blocks' layers."""

    def part(self, state: State) -> Part:
        space = state.space
        cores = self.options["cores"] or space.cores[-1]
        column = column_of(space, cores, self.name)
        return part_of(space, blocks_of(space, self.scheme(space)), [column])


class FixedLayers(_Fixed):
    """Every layer its own block."""

    name = "fixed-layers"

    def scheme(self, space: PlanSpace) -> schemes.Scheme:
        return schemes.layers(space)


class FixedGreedy(_Fixed):
    """Elementwise layers fused behind what they read."""

    name = "fixed-greedy"

    def scheme(self, space: PlanSpace) -> schemes.Scheme:
        return schemes.greedy(space)


class FixedAll(_Fixed):
    """As few blocks as possible."""

    name = "fixed-all"

    def scheme(self, space: PlanSpace) -> schemes.Scheme:
        return schemes.fewest(space)


class _Cores(Restricted):
    """Option: ``powers`` = 1 tries powers of two, and all cores, alone."""

    @abstractmethod
    def scheme(self, space: PlanSpace) -> schemes.Scheme:
        """The blocks' layers."""

    def part(self, state: State) -> Part:
        space = state.space
        columns = few_counts(space) if self.options["powers"] else range(len(space.cores))
        return part_of(space, blocks_of(space, self.scheme(space)), columns)


class CoresLayers(_Cores):
    """Every layer its own block, on the core count that suits it best."""

    name = "cores-layers"

    def scheme(self, space: PlanSpace) -> schemes.Scheme:
        return schemes.layers(space)


class CoresGreedy(_Cores):
    """Elementwise layers fused behind what they read; the best core count for each block."""

    name = "cores-greedy"

    def scheme(self, space: PlanSpace) -> schemes.Scheme:
        return schemes.greedy(space)


class CoresAll(_Cores):
    """As few blocks as possible; the best core count for each."""

    name = "cores-all"

    def scheme(self, space: PlanSpace) -> schemes.Scheme:
        return schemes.fewest(space)
