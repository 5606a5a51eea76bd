"""The best plan of a space under a table of times: dynamic programming over what is left to cover.

Blocks are laid from the end of the model to its beginning. The last layer that is not covered yet is the sink of the
block that covers it, so every partition is met exactly once; a state is the set of layers left, and, where a space has
several layouts, which layouts the blocks laid so far want of tensors still to be made. Chains have one state per layer;
branches multiply their lengths. Past WIDEST states with the same last layer the cheapest are kept, and the result says
that it may not be the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np

from tuner.errors import InternalError
from tuner.plan.handover import Wanted
from tuner.plan.layout import PLAIN
from tuner.plan.plan import Block, Plan
from tuner.plan.space import PlanSpace

Table = np.ndarray  # seconds, [questions, cores]; NaN = unknown, inf = failed
WIDEST = 20_000


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


class _Step(NamedTuple):
    """How a state was reached most cheaply."""

    seconds: float  # so far
    block: int  # laid last; -1 at the start
    before: tuple[int, Wanted] | None  # the state before it


# Layers left (bit set) -> what is wanted of them -> how that was reached.
_Bucket = dict[int, dict[Wanted, _Step]]


class _Chooser:
    """One run of the dynamic programme. ``cost``: seconds of each question on its best core count."""

    def __init__(self, space: PlanSpace, cost: list[float]) -> None:
        self._space, self._cost, self._hand_over = space, cost, space.hand_over
        self._exact = True

    def run(self) -> tuple[tuple[int, ...], float, bool]:
        hand_over, cost, count = self._hand_over, self._cost, len(self._space.graph.layers)
        buckets: list[_Bucket] = [{} for _ in range(count + 1)]  # by the position of the last layer left, plus one
        buckets[count][(1 << count) - 1] = {hand_over.at_end(self._space.graph.outputs): _Step(0.0, -1, None)}
        for last in range(count, 0, -1):
            bucket = buckets[last] = self._narrow(buckets[last])
            offered = [(i, mask, cost[q]) for i, mask, q in self._space.ending_in[last - 1] if cost[q] < inf]
            for left, steps in bucket.items():
                for index, mask, seconds in offered:
                    if mask & left != mask:
                        continue
                    rest = left ^ mask
                    target = buckets[rest.bit_length()].setdefault(rest, {})
                    for wanted, step in steps.items():
                        extra, following = hand_over.past(wanted, index)
                        total = step.seconds + seconds + extra
                        known = target.get(following)
                        if known is None or total < known.seconds:
                            target[following] = _Step(total, index, (left, wanted))
        ends = {w: step.seconds + hand_over.at_start(w) for w, step in buckets[0].get(0, {}).items()}
        if not ends:
            raise InternalError("No plan has a time for each of its blocks.", code="no-plan")
        final = min(ends, key=ends.__getitem__)
        return self._walk(buckets, final), ends[final], self._exact

    @staticmethod
    def _walk(buckets: list[_Bucket], final: Wanted) -> tuple[int, ...]:
        blocks: list[int] = []
        state: tuple[int, Wanted] = (0, final)
        while True:
            step = buckets[state[0].bit_length()][state[0]][state[1]]
            if step.before is None:
                return tuple(blocks)  # the first block of the model was laid last
            blocks.append(step.block)
            state = step.before

    def _narrow(self, bucket: _Bucket) -> _Bucket:
        """Without states that another one beats whatever comes, and without the dearest if there are too many."""
        if self._hand_over.several:
            bucket = {left: self._undominated(steps) for left, steps in bucket.items()}
        if sum(len(steps) for steps in bucket.values()) <= WIDEST:
            return bucket
        self._exact = False
        # Those that have covered much are not dearer for it: compare the time per covered layer.
        count = len(self._space.graph.layers)
        ranked = sorted(
            (step.seconds / (1 + count - left.bit_count()), left, number)
            for left, steps in bucket.items() for number, step in enumerate(steps.values())
        )  # fmt: skip
        names = {left: list(steps) for left, steps in bucket.items()}
        kept: _Bucket = {}
        for _, left, number in ranked[:WIDEST]:
            wanted = names[left][number]
            kept.setdefault(left, {})[wanted] = bucket[left][wanted]
        return kept

    def _undominated(self, steps: dict[Wanted, _Step]) -> dict[Wanted, _Step]:
        """A state is out when a cheaper one, even if all it wants beyond had to be converted, costs no more."""
        if len(steps) == 1:
            return steps
        beyond, kept = self._hand_over.beyond, dict[Wanted, _Step]()
        for wanted, step in sorted(steps.items(), key=lambda item: item[1].seconds):
            if not any(other.seconds + beyond(w, wanted) <= step.seconds for w, other in kept.items()):
                kept[wanted] = step
        return kept


def choice_seconds(space: PlanSpace, choice: Choice, table: Table) -> float:
    """The choice's time under another table, layout changes included; NaN if one is unknown."""
    index = {cores: i for i, cores in enumerate(space.cores)}
    pairs = zip(choice.blocks, choice.cores, strict=True)
    return sum(float(table[space.blocks[b].question, index[c]]) for b, c in pairs) + conversion_seconds(space, choice)


def conversion_seconds(space: PlanSpace, choice: Choice) -> float:
    """What the choice's changes of layout take of that."""
    stored = {n: v for b in choice.blocks for n, v in space.blocks[b].writes.items()}
    wanted = {(n, v) for b in choice.blocks for n, v in space.blocks[b].reads.items()}
    wanted |= {(n, PLAIN) for n in space.graph.outputs}
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
