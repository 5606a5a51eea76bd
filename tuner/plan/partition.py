"""The best plan of a space under a table of times: dynamic programming over what is left to cover.

Blocks are laid from the end of the model to its beginning. The last layer that is not covered yet is the sink of the
block that covers it, so every partition is met exactly once; a state is the set of layers left, and, where a space has
several layouts, which layouts the blocks laid so far want of tensors still to be made. Chains have one state per layer;
branches multiply their lengths. Past WIDEST states with the same last layer the cheapest are kept, and the result says
that it may not be the optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tuner.errors import InternalError
from tuner.plan.layout import PLAIN
from tuner.plan.plan import Block, Plan
from tuner.plan.space import PlanSpace

Table = np.ndarray  # seconds, [questions, cores]; NaN = unknown, inf = failed
WIDEST = 20_000
_Demands = tuple[tuple[str, str], ...]  # (tensor, layout wanted), sorted


@dataclass(frozen=True)
class Choice:
    """A plan in terms of its space."""

    blocks: tuple[int, ...]  # indexes into space.blocks, in running order
    cores: tuple[int, ...]  # core count of each
    seconds: float  # their sum, conversions of layouts included
    exact: bool = True  # False: states were dropped, a better one may exist


def best_partition(space: PlanSpace, seconds: Table) -> Choice:
    """The plan with the least sum of times. NaN counts as impossible.

    Raises:
        InternalError: no plan has all its times (``no-plan``).
    """
    table = np.where(np.isnan(seconds), np.inf, seconds)
    fastest = table.argmin(axis=1)
    cost = table[np.arange(len(table)), fastest].tolist()
    chooser = _Chooser(space, cost)
    blocks, total, exact = chooser.run()
    cores = tuple(space.cores[fastest[space.blocks[b].question]] for b in blocks)
    return Choice(blocks, cores, total, exact)


class _Chooser:
    """One run of the dynamic programme. ``cost``: seconds of each question on its best core count."""

    def __init__(self, space: PlanSpace, cost: list[float]) -> None:
        self._space, self._cost = space, cost
        self._several = any(v != PLAIN for b in space.blocks for v in (*b.reads.values(), *b.writes.values()))
        self._exact = True

    def run(self) -> tuple[tuple[int, ...], float, bool]:
        space = self._space
        count = len(space.graph.layers)
        # Per position of the last layer left: state -> (cost so far, block laid last, state before).
        buckets: list[dict[tuple[int, _Demands], tuple[float, int, tuple[int, _Demands] | None]]]
        buckets = [{} for _ in range(count + 1)]
        outputs: _Demands = tuple(sorted((n, PLAIN) for n in space.graph.outputs)) if self._several else ()
        start = ((1 << count) - 1, outputs)
        buckets[count][start] = (0.0, -1, None)
        for last in range(count, 0, -1):
            bucket = self._narrow(buckets[last])
            for state, (so_far, _, _) in bucket.items():
                left, demands = state
                for index in space.by_sink[last - 1]:
                    block = space.blocks[index]
                    if block.mask & left != block.mask:
                        continue
                    total = so_far + self._cost[block.question]
                    if total == np.inf:
                        continue
                    wanted = demands
                    if self._several:
                        extra, wanted = self._hand_over(demands, block.reads, block.writes)
                        total += extra
                    rest = left & ~block.mask
                    following = (rest, wanted)
                    target = buckets[rest.bit_length()]
                    known = target.get(following)
                    if known is None or total < known[0]:
                        target[following] = (total, index, state)
            buckets[last] = bucket
        if not buckets[0]:
            raise InternalError("No plan has a time for each of its blocks.", code="no-plan")
        final = min(buckets[0], key=lambda state: buckets[0][state][0])
        return self._walk(buckets, final), buckets[0][final][0], self._exact

    @staticmethod
    def _walk(buckets: list[dict[tuple[int, _Demands], tuple[float, int, tuple[int, _Demands] | None]]],
              final: tuple[int, _Demands]) -> tuple[int, ...]:  # fmt: skip
        blocks: list[int] = []
        state = final
        while True:
            _, index, before = buckets[state[0].bit_length()][state]
            if before is None:
                return tuple(blocks)  # the first block of the model was laid last
            blocks.append(index)
            state = before

    def _narrow(
        self, bucket: dict[tuple[int, _Demands], tuple[float, int, tuple[int, _Demands] | None]]
    ) -> dict[tuple[int, _Demands], tuple[float, int, tuple[int, _Demands] | None]]:
        if len(bucket) <= WIDEST:
            return bucket
        self._exact = False
        # Those that have covered much are not dearer for it: compare the time per covered layer.
        ranked = sorted(bucket.items(), key=lambda item: item[1][0] / (1 + _covered(item[0][0], self._space)))
        return dict(ranked[:WIDEST])

    def _hand_over(
        self, demands: _Demands, reads: Mapping[str, str], writes: Mapping[str, str]
    ) -> tuple[float, _Demands]:
        """Seconds of layout changes that this block settles, and what is wanted of the blocks before it."""
        seconds, left = 0.0, []
        for tensor, layout in demands:
            if tensor in writes:
                seconds += self._space.conversions.get(tensor, 0.0) if writes[tensor] != layout else 0.0
            else:
                left.append((tensor, layout))
        for tensor, layout in reads.items():
            if tensor in self._space.graph.producer:
                left.append((tensor, layout))
            elif layout != PLAIN:  # the model's inputs come plain
                seconds += self._space.conversions.get(tensor, 0.0)
        return seconds, tuple(sorted(left))


def _covered(left: int, space: PlanSpace) -> int:
    return len(space.graph.layers) - left.bit_count()


def choice_seconds(space: PlanSpace, choice: Choice, table: Table) -> float:
    """The choice's time under another table, layout changes included; NaN if one is unknown."""
    index = {cores: i for i, cores in enumerate(space.cores)}
    pairs = zip(choice.blocks, choice.cores, strict=True)
    return sum(float(table[space.blocks[b].question, index[c]]) for b, c in pairs) + _conversions(space, choice)


def _conversions(space: PlanSpace, choice: Choice) -> float:
    stored = {n: v for b in choice.blocks for n, v in space.blocks[b].writes.items()}
    wanted = [(n, v) for b in choice.blocks for n, v in space.blocks[b].reads.items()]
    wanted += [(n, PLAIN) for n in space.graph.outputs]
    return sum(space.conversions.get(n, 0.0) for n, v in wanted if stored.get(n, PLAIN) != v)


def to_plan(space: PlanSpace, choice: Choice) -> Plan:
    """The choice as a Plan; knobs are left open."""
    stored = {n: v for b in choice.blocks for n, v in space.blocks[b].writes.items()}
    planned = []
    for index, cores in zip(choice.blocks, choice.cores, strict=True):
        block = space.blocks[index]
        reads = {n: v for n, v in block.reads.items() if stored.get(n, PLAIN) != v}
        planned.append(Block(block.layers, cores, space.questions[block.question].template, None, reads))
    return Plan.sequential(space.graph.hash, planned, {n: v for n, v in stored.items() if v != PLAIN})
