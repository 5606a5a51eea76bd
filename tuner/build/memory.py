"""Memory of an assembled model: one storage that all values share over time, and where in it each lies. Knows no TVM.

A joined value (concatenation) and its parts are one buffer, alive from the first part written to the last one read.
Buffers are placed the largest first (greedy by size with offsets: Pisarchyk and Lee, arXiv 2001.03288), each between
those that are alive with it; of several places where the storage need not grow, the one that was read last is taken,
for it is still in cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.build.program import Call, Foreign, Join, Program, Value, View
from tuner.plan.joins import ALIGNMENT


@dataclass(frozen=True)
class Place:
    """Where a value lies: the index of a storage, and bytes from its beginning."""

    storage: int
    offset: int


@dataclass(frozen=True)
class Life:
    """A buffer from the op that first writes to it to the last that reads it, both included."""

    first: int
    last: int
    bytes: int
    kept: bool = False  # the model's user gets it, or what may be a view of it

    def meets(self, other: Life) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Memory:
    """Sizes of the storages, and the place of every value that kernels write."""

    storages: tuple[int, ...]  # bytes: the shared one, if there is any, then one for each buffer that the user keeps
    places: Mapping[Value, Place]

    @property
    def bytes(self) -> int:
        return sum(self.storages)


def lives(program: Program) -> dict[Value, Life]:
    """The life of every buffer, by the value that spans it: what a kernel writes, or what is joined of several."""
    homes = _homes(program)
    within: dict[Value, frozenset[Value]] = {}  # value -> buffers in which it may lie
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for index, op in enumerate(program.ops):
        read = _reads(op)
        for root in {r for value in read for r in within.get(value, ())}:
            last[root] = index
        if isinstance(op, Call | Join):
            root = _root(op.out, homes)[0]
            within[op.out] = frozenset({root})
            first.setdefault(root, index)
            last[root] = index
        elif isinstance(op, View):
            within[op.out] = within.get(op.source, frozenset())
        elif isinstance(op, Foreign):
            reached = frozenset(r for value in op.args for r in within.get(value, ()))
            within.update(dict.fromkeys(op.outs, reached))
    kept = {r for value in program.results for r in within.get(value, ())}
    return {root: Life(first[root], last[root], root.bytes, root in kept) for root in first}


def plan_memory(program: Program) -> Memory:
    """Place every buffer: in a storage of its own if the user keeps it, else in the shared one."""
    found = lives(program)
    shared = {root: life for root, life in found.items() if not life.kept}
    starts, size = _pack(shared)
    storages = [size] if shared else []
    at = {root: Place(0, start) for root, start in starts.items()}
    for root in found.keys() - shared.keys():
        at[root] = Place(len(storages), 0)
        storages.append(_aligned(found[root].bytes))
    homes = _homes(program)
    places = {}
    for op in program.ops:
        if isinstance(op, Call | Join):
            root, offset = _root(op.out, homes)
            places[op.out] = Place(at[root].storage, at[root].offset + offset)
    return Memory(tuple(storages), places)


def _pack(buffers: Mapping[Value, Life]) -> tuple[dict[Value, int], int]:
    """Where each buffer begins in one storage, and the storage's bytes."""
    starts: dict[Value, int] = {}
    size = 0
    for root, life in sorted(buffers.items(), key=lambda item: (-item[1].bytes, item[1].first)):
        placed = [(start, buffers[other]) for other, start in starts.items()]
        gaps = _gaps([(start, _aligned(other.bytes)) for start, other in placed if other.meets(life)], life.bytes)
        inside = [start for start in gaps if start + life.bytes <= size]

        def coldness(start: int, life: Life = life, placed: list[tuple[int, Life]] = placed) -> float:
            """Ops since this place was last used before; infinite if it was not."""
            end = start + life.bytes
            used = [x.last for at, x in placed if x.last < life.first and at < end and start < at + x.bytes]
            return life.first - max(used) if used else float("inf")

        starts[root] = min(inside, key=lambda start: (coldness(start), start)) if inside else gaps[0]
        size = max(size, starts[root] + _aligned(life.bytes))
    return starts, size


def _gaps(busy: list[tuple[int, int]], size: int) -> list[int]:
    """Beginnings of the places of ``size`` bytes that these (start, bytes) leave, the last one behind them all."""
    found, end = [], 0
    for start, used in sorted(busy):
        if start - end >= size:
            found.append(end)
        end = max(end, start + used)
    return [*found, end]


def _aligned(size: int) -> int:
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT


def most_alive(program: Program) -> int:
    """Bytes of the buffers that must exist at once: no plan can do with less."""
    found = list(lives(program).values())
    ends = [life for life in found if life.kept]
    shared = [life for life in found if not life.kept]
    most = max((sum(x.bytes for x in shared if x.first <= i <= x.last) for i in {y.first for y in shared}), default=0)
    return most + sum(life.bytes for life in ends)


def _reads(op: object) -> tuple[Value, ...]:
    if isinstance(op, Call | Foreign):
        return op.args
    if isinstance(op, Join):
        return op.parts
    return (op.source,) if isinstance(op, View) else ()


def _homes(program: Program) -> dict[Value, tuple[Value, int]]:
    """Part -> (what it is joined into, bytes from its beginning)."""
    homes: dict[Value, tuple[Value, int]] = {}
    for op in program.ops:
        if isinstance(op, Join):
            offset = 0
            for part in op.parts:
                if part in homes or offset % ALIGNMENT:
                    raise ValueError("a part of a join lies elsewhere already, or would not be aligned")
                homes[part] = (op.out, offset)
                offset += part.bytes
            if offset != op.out.bytes:
                raise ValueError(f"a join of {op.out.bytes} bytes has parts of {offset} bytes")
    return homes


def _root(value: Value, homes: Mapping[Value, tuple[Value, int]]) -> tuple[Value, int]:
    """The buffer that a value lies in, and how far from its beginning."""
    offset = 0
    while value in homes:
        value, more = homes[value]
        offset += more
    return value, offset
