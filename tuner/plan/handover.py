"""What the layouts of a plan's blocks cost between them, found out once for all plans: it does not depend on times.

Blocks are laid from the end of a model to its beginning (see ``partition``). What those laid so far want of tensors
still to be made is met again in every run of the dynamic programme, and in every plan that is alike at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tuner.plan.layout import PLAIN

if TYPE_CHECKING:
    from tuner.plan.space import BlockOption

Demand = tuple[str, str]  # tensor, layout wanted of it


class Wanted:
    """Demands of the blocks laid so far. There is one object for equal demands, so that it is quickly looked up."""

    __slots__ = ("beyond", "demands", "past")

    def __init__(self, demands: frozenset[Demand]) -> None:
        self.demands = demands
        self.past: dict[int, tuple[float, Wanted]] = {}  # block -> what laying it costs, and what is wanted then
        self.beyond: dict[Wanted, float] = {}  # others -> seconds of what is wanted here and not there


class HandOver:
    """Changes of layout between blocks. ``conversions``: tensor -> seconds to change its layout."""

    def __init__(self, blocks: Sequence[BlockOption], conversions: Mapping[str, float]) -> None:
        self._blocks, self._conversions = blocks, conversions
        self._known: dict[frozenset[Demand], Wanted] = {}
        self._several = any(v != PLAIN for b in blocks for v in (*b.reads.values(), *b.writes.values()))

    @property
    def several(self) -> bool:
        """Whether anything lies other than plain; if not, nothing is wanted, and all costs are none."""
        return self._several

    def at_end(self, outputs: Iterable[str]) -> Wanted:
        """What is wanted when nothing is laid: the model's outputs plain."""
        return self._wanted(frozenset((n, PLAIN) for n in outputs) if self._several else frozenset())

    def past(self, wanted: Wanted, block: int) -> tuple[float, Wanted]:
        """Seconds of layout changes that a block settles, and what is wanted of the blocks before it.

        A tensor is converted once for all that want it so.
        """
        known = wanted.past.get(block)
        if known is None:
            known = wanted.past[block] = self._past(wanted, block) if self._several else (0.0, wanted)
        return known

    def beyond(self, wanted: Wanted, other: Wanted) -> float:
        """Seconds of layout changes if all had to be changed that is wanted here and not in ``other``."""
        seconds = wanted.beyond.get(other)
        if seconds is None:
            seconds = wanted.beyond[other] = self._convert(wanted.demands - other.demands)
        return seconds

    def at_start(self, wanted: Wanted) -> float:
        """Seconds of layout changes when all is laid: the model's inputs come plain."""
        return self._convert(d for d in wanted.demands if d[1] != PLAIN)

    def _past(self, wanted: Wanted, block: int) -> tuple[float, Wanted]:
        reads, writes = self._blocks[block].reads, self._blocks[block].writes
        met = [d for d in wanted.demands if d[0] in writes]
        seconds = self._convert((n, v) for n, v in met if writes[n] != v)
        return seconds, self._wanted(wanted.demands.difference(met).union(reads.items()))

    def _wanted(self, demands: frozenset[Demand]) -> Wanted:
        return self._known.setdefault(demands, Wanted(demands))

    def _convert(self, demands: Iterable[Demand]) -> float:
        return sum(self._conversions.get(tensor, 0.0) for tensor, _ in demands)
