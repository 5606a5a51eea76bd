"""Which calls of a program run at the same time, each on how many SMs: the Plan of a GPU.

Where the graph of calls forks, its branches may share the GPU: each is given a number of SMs that it can use, together
no more than there are, and the stage takes as long as its slowest branch, but no less than moving all their bytes. A
dynamic programme over the branches of each fork (the stages of IOS, Ding et al. 2021, arXiv 2011.01302, with whole
branches as units) takes such a stage only where the sum of times gets less; elsewhere one runs after the other. The
SMs of branches are chosen by what they can use, as in resource-aware scheduling (Rammer, Ma et al. 2020). Needs no TVM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tuner.gpu.program import Program
from tuner.plan.plan import Block, Lane, Plan, Stage

FORK = 4e-6  # s that it takes to let streams wait for one another, both ways, assumed
MOST_LANES = 4  # at once
MOST_BRANCHES = 9  # of one fork that the dynamic programme looks at; among more, what pays most comes first
TEMPLATE = "tvm"  # of the blocks: fused by TVM's rules
OVERRUN = 1.05  # a stage must be this much faster than its branches one after the other: estimates err


@dataclass(frozen=True)
class Timed:
    """One call. ``seconds``: by the number of SMs that it uses; its least entry is the fewest it can be given."""

    seconds: Mapping[int, float]
    floor: float = 0.0  # s that its bytes take on the way to memory, whatever the SMs

    @property
    def alone(self) -> tuple[int, float]:
        """SMs and seconds of the fastest way, the fewest SMs of equals."""
        return min(self.seconds.items(), key=lambda item: (item[1], item[0]))

    def within(self, cores: int) -> tuple[int, float] | None:
        """The same with no more than ``cores`` SMs; None where it needs more."""
        fitting = [item for item in self.seconds.items() if item[0] <= cores]
        return min(fitting, key=lambda item: (item[1], item[0])) if fitting else None


@dataclass(frozen=True)
class Branch:
    """Calls that run one after the other, on at most so many SMs."""

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


def in_turn(program: Program, times: Sequence[Timed], sms: int) -> Arrangement:
    """One call after the other, each on all SMs that help it."""
    stages = tuple((Branch((number,), min(sms, timed.alone[0])),) for number, timed in enumerate(times))
    return Arrangement(stages, sum(timed.alone[1] for timed in times))


def arranged(program: Program, times: Sequence[Timed], sms: int) -> Arrangement:
    """The arrangement with the least expected time, as far as this looks."""
    stages: list[tuple[Branch, ...]] = []
    seconds = 0.0
    for part in _parts(program.needs):
        found, took = _arrange_part(part, program.needs, times, sms)
        stages += found
        seconds += took
    return Arrangement(tuple(stages), seconds)


def to_plan(program: Program, arrangement: Arrangement, times: Sequence[Timed]) -> Plan:
    """The arrangement as a Plan, whose layers are the program's calls."""
    return Plan(
        program.hash,
        tuple(
            Stage(tuple(
                Lane(tuple(Block((program.names[call],), _cores(times[call], branch.cores), TEMPLATE)
                           for call in branch.calls))
                for branch in stage
            ))
            for stage in arrangement.stages
        ),
    )  # fmt: skip


def of_plan(program: Program, plan: Plan) -> tuple[tuple[Branch, ...], ...]:
    """The stages of a Plan in terms of the program. Raises ValueError if it is not a plan of this program."""
    if plan.graph != program.hash:
        raise ValueError("the plan is of another program")
    number = {name: at for at, name in enumerate(program.names)}
    try:
        stages = tuple(
            tuple(Branch(tuple(number[name] for b in lane.blocks for name in b.layers), lane.cores)
                  for lane in stage.lanes)
            for stage in plan.stages
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"the plan names {error}, which is no call of the program") from None
    check_order(program, stages)
    return stages


def check_order(program: Program, stages: Sequence[Sequence[Branch]]) -> None:
    """Raise ValueError unless every call runs once, behind all that it needs: in earlier stages or its own branch."""
    done: set[int] = set()
    for stage in stages:
        for branch in stage:
            own = set(done)
            for call in branch.calls:
                if call in own or not program.needs[call] <= own:
                    raise ValueError(f"{program.names[call]} runs twice, or before what it reads is there")
                own.add(call)
        done |= {call for branch in stage for call in branch.calls}
    if len(done) != len(program.calls) or sum(len(b.calls) for s in stages for b in s) != len(done):
        raise ValueError("the plan leaves calls out, or runs some twice")


def _cores(timed: Timed, limit: int) -> int:
    fitting = timed.within(limit)
    return fitting[0] if fitting else timed.alone[0]


def _parts(needs: Sequence[frozenset[int]]) -> Iterator[list[int]]:
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


def _branches(part: Sequence[int], needs: Sequence[frozenset[int]]) -> list[tuple[int, ...]]:
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


def _arrange_part(
    part: Sequence[int], needs: Sequence[frozenset[int]], times: Sequence[Timed], sms: int
) -> tuple[list[tuple[Branch, ...]], float]:
    chains = _branches(part, needs)
    owner = {call: number for number, chain in enumerate(chains) for call in chain}
    wants = [
        sum({1 << owner[n] for call in chain for n in needs[call] if n in owner and owner[n] != number})
        for number, chain in enumerate(chains)
    ]
    if len(chains) > MOST_BRANCHES:
        return _greedily(chains, wants, times, sms)
    offers: dict[tuple[int, ...], tuple[float, tuple[int, ...]] | None] = {}
    best: dict[int, tuple[float, int, tuple[Branch, ...]]] = {0: (0.0, -1, ())}  # done -> seconds, before, stage
    for done in range(1 << len(chains)):  # a state is reached from smaller ones alone
        if done not in best:
            continue
        ready = [k for k in range(len(chains)) if not done >> k & 1 and wants[k] & ~done == 0]
        for size in range(1, min(MOST_LANES, len(ready)) + 1):
            for members in combinations(ready, size):
                if members not in offers:
                    offers[members] = _share([chains[k] for k in members], times, sms)
                offer = offers[members]
                if offer is None:
                    continue
                seconds, cores = offer
                state = done | sum(1 << k for k in members)
                total = best[done][0] + seconds
                if state not in best or total < best[state][0]:
                    stage = tuple(Branch(chains[k], c) for k, c in zip(members, cores, strict=True))
                    best[state] = total, done, stage
    state = (1 << len(chains)) - 1
    total, stages = best[state][0], []
    while state:
        _, state, stage = best[state]
        stages.append(stage)
    return [single for stage in reversed(stages) for single in _split(stage)], total


def _greedily(
    chains: Sequence[tuple[int, ...]], wants: Sequence[int], times: Sequence[Timed], sms: int
) -> tuple[list[tuple[Branch, ...]], float]:
    """Stages of a part with many branches: each time those among the first that are ready which save the most."""
    done, total, stages = 0, 0.0, []
    while done != (1 << len(chains)) - 1:
        ready = [k for k in range(len(chains)) if not done >> k & 1 and wants[k] & ~done == 0][:MOST_BRANCHES]
        most, chosen, offer = 0.0, ready[:1], _share([chains[ready[0]]], times, sms)
        for size in range(2, min(MOST_LANES, len(ready)) + 1):
            for members in combinations(ready, size):
                found = _share([chains[k] for k in members], times, sms)
                saved = sum(times[c].alone[1] for k in members for c in chains[k]) - found[0] if found else 0.0
                if saved > most:
                    most, chosen, offer = saved, list(members), found
        assert offer is not None
        total += offer[0]
        stages += _split(tuple(Branch(chains[k], c) for k, c in zip(chosen, offer[1], strict=True)))
        done |= sum(1 << k for k in chosen)
    return stages, total


def _split(stage: tuple[Branch, ...]) -> list[tuple[Branch, ...]]:
    """A branch that runs alone, call by call: its tensors then live no longer than they must."""
    if len(stage) > 1:
        return [stage]
    return [(Branch((call,), stage[0].cores),) for call in stage[0].calls]


def _share(
    chains: Sequence[Sequence[int]], times: Sequence[Timed], sms: int
) -> tuple[float, tuple[int, ...]] | None:  # fmt: skip
    """Seconds of these branches at the same time, and each one's SMs; None where that does not pay."""
    in_turn_seconds = sum(times[call].alone[1] for chain in chains for call in chain)
    if len(chains) == 1:
        return in_turn_seconds, (sms,)
    ways = [_ways(chain, times, sms) for chain in chains]
    floor = sum(min(times[call].floor, times[call].alone[1]) for chain in chains for call in chain)
    for limit in sorted({seconds for way in ways for _, seconds in way}):
        cores = [min((c for c, seconds in way if seconds <= limit), default=None) for way in ways]
        chosen = tuple(c for c in cores if c is not None)
        if len(chosen) == len(ways) and sum(chosen) <= sms:
            seconds = max(limit, floor) + FORK
            return (seconds, chosen) if seconds * OVERRUN < in_turn_seconds else None
    return None


def _ways(chain: Sequence[int], times: Sequence[Timed], sms: int) -> list[tuple[int, float]]:
    """(SMs, seconds) of a branch for every number of SMs that one of its calls knows."""
    known = sorted({cores for call in chain for cores in times[call].seconds if cores <= sms})
    found = []
    for cores in known:
        each = [times[call].within(cores) for call in chain]
        if all(way is not None for way in each):
            found.append((cores, sum(way[1] for way in each if way is not None)))
    return found
