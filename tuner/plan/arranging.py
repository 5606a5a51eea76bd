"""Which calls run at the same time, each on how many cores: stages over a graph of calls whose times are known.

Where the graph forks, its branches may share the device: each lane is given a number of cores that it can use, together
no more than there are, and the stage takes as long as its slowest lane, but no less than moving all their bytes. A
dynamic programme over what lies between two calls that everything passes (the stages of IOS, Ding et al. 2021, arXiv
2011.01302) takes such a stage only where the sum of times gets less; elsewhere one runs after the other. The cores of
lanes are chosen by what they can use, as in resource-aware scheduling (Rammer, Ma et al. 2020). Knows neither TVM nor
devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

MOST_LANES = 4  # at once
MOST_UNITS = 9  # of one part that the dynamic programme looks at; among more, what pays most comes first

Needs = Sequence[frozenset[int]]  # by call: those that it reads; calls are numbered in an order in which they may run


@dataclass(frozen=True)
class Timed:
    """One call. ``seconds``: by the number of cores that it uses; its least entry is the fewest it can be given."""

    seconds: Mapping[int, float]
    floor: float = 0.0  # s that its bytes take on the way to memory, whatever the cores

    @property
    def alone(self) -> tuple[int, float]:
        """Cores and seconds of the fastest way, the fewest cores of equals."""
        return min(self.seconds.items(), key=lambda item: (item[1], item[0]))

    def within(self, cores: int) -> tuple[int, float] | None:
        """The same with no more than ``cores``; None where it needs more."""
        fitting = [item for item in self.seconds.items() if item[0] <= cores]
        return min(fitting, key=lambda item: (item[1], item[0])) if fitting else None


@dataclass(frozen=True)
class Branch:
    """Calls that run one after the other, on at most so many cores."""

    calls: tuple[int, ...]
    cores: int


@dataclass(frozen=True)
class Arrangement:
    """Stages in order, the branches of each at the same time; and the seconds expected of them."""

    stages: tuple[tuple[Branch, ...], ...]
    seconds: float

    @property
    def forks(self) -> int:
        """Stages of several branches."""
        return sum(len(stage) > 1 for stage in self.stages)


@dataclass(frozen=True)
class Sharing:
    """How a device lets calls share it.

    ``chains``: branches are taken whole, and one of several calls may have any number of cores (streams of a GPU).
    Otherwise a stage may be any calls that are ready together with what they lead to, and those of them that need one
    another run on one core: between them nobody waits for anybody (tasks of one parallel launch).
    """

    cores: int
    fork: float  # s that it takes to begin several lanes and to wait for them all, beyond what single calls take
    overrun: float  # a stage must be so many times faster than its calls one after the other: estimates err
    chains: bool = False


def in_turn(times: Sequence[Timed], cores: int) -> Arrangement:
    """One call after the other, each on all cores that help it."""
    stages = tuple((Branch((number,), min(cores, timed.alone[0])),) for number, timed in enumerate(times))
    return Arrangement(stages, sum(timed.alone[1] for timed in times))


def arranged(needs: Needs, times: Sequence[Timed], sharing: Sharing) -> Arrangement:
    """The arrangement with the least expected time, as far as this looks."""
    stages: list[tuple[Branch, ...]] = []
    seconds = 0.0
    for part in _parts(needs):
        found, took = _Part(part, needs, times, sharing).arranged()
        stages += found
        seconds += took
    return Arrangement(tuple(stages), seconds)


def check_order(needs: Needs, names: Sequence[str], stages: Sequence[Sequence[Branch]]) -> None:
    """Raise ValueError unless every call runs once, behind all that it needs: in earlier stages or its own branch."""
    done: set[int] = set()
    for stage in stages:
        for branch in stage:
            own = set(done)
            for call in branch.calls:
                if call in own or not needs[call] <= own:
                    raise ValueError(f"{names[call]} runs twice, or before what it reads is there")
                own.add(call)
        done |= {call for branch in stage for call in branch.calls}
    if len(done) != len(needs) or sum(len(b.calls) for s in stages for b in s) != len(done):
        raise ValueError("the plan leaves calls out, or runs some twice")


def _parts(needs: Needs) -> Iterator[list[int]]:
    """The calls between those that everything before leads to and everything after comes from, and these alone."""
    count = len(needs)
    before, after = [0] * count, [0] * count  # bit sets
    for call in range(count):
        for need in needs[call]:
            before[call] |= before[need] | 1 << need
    for call in reversed(range(count)):
        for need in needs[call]:
            after[need] |= after[call] | 1 << call
    part: list[int] = []
    for call in range(count):
        if (before[call] | after[call]).bit_count() == count - 1:
            if part:
                yield part
            part = []
            yield [call]
        else:
            part.append(call)
    if part:
        yield part


def _branches(part: Sequence[int], needs: Needs) -> list[tuple[int, ...]]:
    """The longest chains of a part in which each call is all that reads the one before, which is all it reads."""
    inside = set(part)
    readers: dict[int, list[int]] = {call: [] for call in part}
    for call in part:
        for need in needs[call] & inside:
            readers[need].append(call)
    chains: dict[int, list[int]] = {}  # by last call
    for call in part:
        own = needs[call] & inside
        before = next(iter(own), -1)
        if len(own) == 1 and len(readers[before]) == 1 and before in chains:
            chains[call] = [*chains.pop(before), call]
        else:
            chains[call] = [call]
    return sorted((tuple(chain) for chain in chains.values()), key=lambda chain: chain[0])


Lanes = tuple[tuple[int, ...], ...]  # of one stage, each the units that it runs in turn


class _Part:
    """The calls of one part, in units that are arranged; a set of units is a bit set."""

    def __init__(self, part: Sequence[int], needs: Needs, times: Sequence[Timed], sharing: Sharing) -> None:
        self.times, self.sharing = times, sharing
        self.units = _branches(part, needs) if sharing.chains else [(call,) for call in part]
        owner = {call: number for number, unit in enumerate(self.units) for call in unit}
        self.wants = [
            sum({1 << owner[n] for call in unit for n in needs[call] if n in owner and owner[n] != number})
            for number, unit in enumerate(self.units)
        ]
        self._offers: dict[Lanes, tuple[float, tuple[int, ...]] | None] = {}

    def arranged(self) -> tuple[list[tuple[Branch, ...]], float]:
        if len(self.units) > MOST_UNITS:
            return self._greedily()
        best: dict[int, tuple[float, int, tuple[Branch, ...]]] = {0: (0.0, -1, ())}  # done -> seconds, before, stage
        for done in range(1 << len(self.units)):  # a state is reached from smaller ones alone
            if done not in best:
                continue
            for lanes in self._stages(done):
                offer = self._offer(lanes)
                if offer is None:
                    continue
                state = done | sum(1 << unit for lane in lanes for unit in lane)
                total = best[done][0] + offer[0]
                if state not in best or total < best[state][0]:
                    best[state] = total, done, self._branched(lanes, offer[1])
        state = (1 << len(self.units)) - 1
        total, stages = best[state][0], []
        while state:
            _, state, stage = best[state]
            stages.append(stage)
        return [single for stage in reversed(stages) for single in _split(stage)], total

    def _greedily(self) -> tuple[list[tuple[Branch, ...]], float]:
        """Stages of a part with many units: each time those among the first that are ready which save the most."""
        done, total, stages = 0, 0.0, []
        while done != (1 << len(self.units)) - 1:
            ready = self._ready(done)[:MOST_UNITS]
            chosen: Lanes = ((ready[0],),)
            most, offer = 0.0, self._offer(chosen)
            for lanes in _side_by_side(ready):
                found = self._offer(lanes)
                saved = self._in_turn(lanes) - found[0] if found else 0.0
                if saved > most:
                    most, chosen, offer = saved, lanes, found
            assert offer is not None
            total += offer[0]
            stages += _split(self._branched(chosen, offer[1]))
            done |= sum(1 << unit for lane in chosen for unit in lane)
        return stages, total

    def _ready(self, done: int) -> list[int]:
        return [k for k, wants in enumerate(self.wants) if not done >> k & 1 and wants & ~done == 0]

    def _stages(self, done: int) -> Iterator[Lanes]:
        """What may come next: one unit, or several lanes."""
        ready = self._ready(done)
        yield from (((unit,),) for unit in ready)
        if self.sharing.chains:
            yield from _side_by_side(ready)
            return
        for members in self._closed(done, 0, 0):
            lanes = self._lanes(members)
            if 1 < len(lanes) <= MOST_LANES:
                yield lanes

    def _closed(self, done: int, members: int, first: int) -> Iterator[int]:
        """Sets of units not done whose needs are done or among them, ``members`` and others from ``first`` on."""
        yield members
        for unit in range(first, len(self.units)):
            if not done >> unit & 1 and self.wants[unit] & ~(done | members) == 0:
                yield from self._closed(done, members | 1 << unit, unit + 1)

    def _lanes(self, members: int) -> Lanes:
        """A set of units, those that need one another together."""
        lanes: list[list[int]] = []
        for unit in (k for k in range(len(self.units)) if members >> k & 1):
            met = [lane for lane in lanes if any(self.wants[unit] >> other & 1 for other in lane)]
            lanes = [lane for lane in lanes if lane not in met]
            lanes.append([other for lane in met for other in lane] + [unit])
        return tuple(sorted(tuple(sorted(lane)) for lane in lanes))

    def _branched(self, lanes: Lanes, cores: Sequence[int]) -> tuple[Branch, ...]:
        return tuple(Branch(self._calls(lane), count) for lane, count in zip(lanes, cores, strict=True))

    def _calls(self, lane: Sequence[int]) -> tuple[int, ...]:
        return tuple(call for unit in lane for call in self.units[unit])

    def _in_turn(self, lanes: Lanes) -> float:
        return sum(self.times[call].alone[1] for lane in lanes for call in self._calls(lane))

    def _offer(self, lanes: Lanes) -> tuple[float, tuple[int, ...]] | None:
        """Seconds of these lanes at the same time, and each one's cores; None where that does not pay."""
        if lanes not in self._offers:
            self._offers[lanes] = self._share(lanes)
        return self._offers[lanes]

    def _share(self, lanes: Lanes) -> tuple[float, tuple[int, ...]] | None:
        in_turn_seconds, sharing = self._in_turn(lanes), self.sharing
        if len(lanes) == 1:
            return in_turn_seconds, (sharing.cores,)
        calls = [self._calls(lane) for lane in lanes]
        ways = [self._ways(chain) for chain in calls]
        floor = sum(min(self.times[c].floor, self.times[c].alone[1]) for chain in calls for c in chain)
        for limit in sorted({seconds for way in ways for _, seconds in way}):
            cores = [min((c for c, seconds in way if seconds <= limit), default=None) for way in ways]
            chosen = tuple(c for c in cores if c is not None)
            if len(chosen) == len(ways) and sum(chosen) <= sharing.cores:
                seconds = max(limit, floor) + sharing.fork
                return (seconds, chosen) if seconds * sharing.overrun < in_turn_seconds else None
        return None

    def _ways(self, chain: Sequence[int]) -> list[tuple[int, float]]:
        """(cores, seconds) of a lane for every number of cores that one of its calls knows."""
        known = sorted({c for call in chain for c in self.times[call].seconds if c <= self.sharing.cores})
        if len(chain) > 1 and not self.sharing.chains:
            known = known[:1] if known[:1] == [1] else []
        found = []
        for cores in known:
            each = [self.times[call].within(cores) for call in chain]
            if all(way is not None for way in each):
                found.append((cores, sum(way[1] for way in each if way is not None)))
        return found


def _side_by_side(ready: Sequence[int]) -> Iterator[Lanes]:
    """Several of the units that are ready, each a lane of its own."""
    for size in range(2, min(MOST_LANES, len(ready)) + 1):
        for members in combinations(ready, size):
            yield tuple((unit,) for unit in members)


def _split(stage: tuple[Branch, ...]) -> list[tuple[Branch, ...]]:
    """A branch that runs alone, call by call: its tensors then live no longer than they must."""
    if len(stage) > 1:
        return [stage]
    return [(Branch((call,), stage[0].cores),) for call in stage[0].calls]
