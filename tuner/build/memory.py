"""Memory of an assembled model: one storage that all values share over time, and where in it each lies. Knows no TVM.

A joined value (concatenation) and its parts are one buffer, alive from the first part written to the last one read; so
are a value and its slices. A slice may be a part as well: then both wholes are in that buffer, and share what it holds.
Buffers are placed the largest first (greedy by size with offsets: Pisarchyk and Lee, arXiv 2001.03288), each between
those that are alive with it; of several places where the storage need not grow, the one that was read last is taken,
for it is still in cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.build.program import Call, Foreign, Join, Program, Slice, Together, Value, View, placed, written
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
    """The life of every buffer, by the value that spans it, or the first in it where none spans it."""
    homes = homes_of(program)
    within: dict[Value, frozenset[Value]] = {}  # value -> buffers in which it may lie
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for index, op in enumerate(program.ops):
        read = _reads(op)
        for root in {r for value in read for r in within.get(value, ())}:
            last[root] = index
        for value in placed(op):
            root = homes[value].root
            within[value] = frozenset({root})
            first.setdefault(root, index)
            last[root] = index
        if isinstance(op, View):
            within[op.out] = within.get(op.source, frozenset())
        elif isinstance(op, Foreign):
            reached = frozenset(r for value in op.args for r in within.get(value, ()))
            within.update(dict.fromkeys(op.outs, reached))
    kept = {r for value in program.results for r in within.get(value, ())}
    return {root: Life(first[root], last[root], homes[root].bytes, root in kept) for root in first}


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
    places = {value: Place(at[home.root].storage, at[home.root].offset + home.offset)
              for value, home in homes_of(program).items()}  # fmt: skip
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
    if isinstance(op, Together):
        return tuple(value for call in op.calls for value in call.args)
    if isinstance(op, Call | Foreign):
        return op.args
    if isinstance(op, Join):
        return op.parts
    return (op.source,) if isinstance(op, View | Slice) else ()


@dataclass(frozen=True)
class Home:
    """Where in which buffer a value lies."""

    root: Value  # names the buffer
    offset: int  # bytes from the buffer's beginning
    bytes: int  # of the whole buffer


def homes_of(program: Program) -> dict[Value, Home]:
    """The home of every value that kernels, joins and slices make.

    Raises:
        ValueError: values cannot lie as joins and slices say, would not be aligned, or one kernel would write over
            what another wrote.
    """
    together = _Together()
    for op in program.ops:
        for value in placed(op):
            together.add(value)
        if isinstance(op, Join):
            offset = 0
            for part in op.parts:
                together.put(part, op.out, offset)
                offset += part.bytes
            if offset != op.out.bytes:
                raise ValueError(f"a join of {op.out.bytes} bytes has parts of {offset} bytes")
        elif isinstance(op, Slice):
            together.put(op.out, op.source, op.offset)
            if op.offset + op.out.bytes > op.source.bytes:
                raise ValueError(f"a slice ends behind the {op.source.bytes} bytes that it is of")
    groups: dict[Value, list[tuple[int, Value]]] = {}
    for value in together.values:
        first, offset = together.find(value)
        groups.setdefault(first, []).append((offset, value))
    kernels = {value for op in program.ops for value in written(op)}
    found = {}
    for members in groups.values():
        begin = min(offset for offset, _ in members)
        size = max(offset + value.bytes for offset, value in members) - begin
        root = next((v for offset, v in members if offset == begin and v.bytes == size), members[0][1])
        _check_apart([(offset, v.bytes) for offset, v in members if v in kernels])
        found.update({value: Home(root, offset - begin, size) for offset, value in members})
    return found


def _check_apart(places: list[tuple[int, int]]) -> None:
    """ValueError when two of these (beginning, bytes) overlap."""
    end: int | None = None
    for start, size in sorted(places):
        if end is not None and start < end:
            raise ValueError("a join or a slice would let one kernel write over what another wrote")
        end = start + size


class _Together:
    """Values that lie at known distances from each other: a union-find with offsets."""

    def __init__(self) -> None:
        self._before: dict[Value, tuple[Value, int]] = {}  # value -> (another, bytes from its beginning)

    @property
    def values(self) -> list[Value]:
        return list(self._before)

    def add(self, value: Value) -> None:
        self._before.setdefault(value, (value, 0))

    def find(self, value: Value) -> tuple[Value, int]:
        """The one that stands for all that lie together, and how far behind its beginning the value begins."""
        offset = 0
        while self._before[value][0] is not value:
            value, more = self._before[value]
            offset += more
        return value, offset

    def put(self, value: Value, other: Value, offset: int) -> None:
        """The value begins ``offset`` bytes behind the beginning of the other."""
        if value not in self._before or other not in self._before or offset % ALIGNMENT:
            raise ValueError("a join or a slice is of memory that is not planned here, or would not be aligned")
        (one, its), (two, theirs) = self.find(value), self.find(other)
        if one is not two:
            self._before[one] = (two, theirs + offset - its)
        elif its != theirs + offset:
            raise ValueError("a part of a join lies elsewhere already")
