"""Layered drawing of a directed acyclic graph, first half: which rank a node stands in, and in which order.

The method is that of Sugiyama, Tagawa and Toda (1981): ranks by longest path, long edges cut by stand-ins so that each
edge joins neighbouring ranks, order within ranks by sweeps of barycentres.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

SWEEPS = 12  # downwards and upwards in turn; more change little
BUDGET = 40_000  # node visits after which sweeping ends: large graphs settle for fewer sweeps


@dataclass
class Ranked:
    """Nodes 0 .. n-1 are the caller's, the others stand-ins on long edges. ``up`` and ``down`` are neighbours.

    All long edges out of one node share their stand-ins: what is read in many places runs as one thread with branches.
    """

    ranks: list[list[int]]  # node numbers from left to right
    real: int  # how many nodes are the caller's
    up: list[list[int]] = field(default_factory=list)
    down: list[list[int]] = field(default_factory=list)
    chains: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # edge -> its nodes from top to bottom


def ranked(count: int, edges: Sequence[tuple[int, int]]) -> Ranked:
    """Ranks and order for ``count`` nodes and distinct ``edges`` (from, to), which hold no cycle."""
    rank = _ranks(count, edges)
    depth = max(rank, default=-1) + 1
    result = Ranked([[] for _ in range(depth)], count, [[] for _ in range(count)], [[] for _ in range(count)])
    threads: dict[int, list[int]] = {}
    for source, target in edges:
        thread = threads.setdefault(source, [source])
        while rank[source] + len(thread) < rank[target]:
            rank.append(rank[source] + len(thread))
            result.up.append([])
            result.down.append([])
            _join(result, thread[-1], len(rank) - 1)
            thread.append(len(rank) - 1)
        chain = thread[: rank[target] - rank[source]]
        _join(result, chain[-1], target)
        result.chains[source, target] = [*chain, target]
    for node in _in_walking_order(result, count):
        result.ranks[rank[node]].append(node)
    _sweep(result)
    return result


def _join(graph: Ranked, above: int, below: int) -> None:
    graph.down[above].append(below)
    graph.up[below].append(above)


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        above[target].append(source)
        below[source].append(target)
    order = _topological(above, below)
    rank = [0] * count
    for node in order:
        rank[node] = max((rank[n] + 1 for n in above[node]), default=0)
    for node in reversed(order):  # what nothing leads to stands right before what it leads to
        if not above[node] and below[node]:
            rank[node] = min(rank[n] for n in below[node]) - 1
    return rank


def _topological(above: Sequence[Sequence[int]], below: Sequence[Sequence[int]]) -> list[int]:
    waiting = [len(a) for a in above]
    ready = [n for n, w in enumerate(waiting) if not w]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for after in below[node]:
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)
    return order


def _in_walking_order(graph: Ranked, count: int) -> list[int]:
    """Nodes as a walk from the top meets them: branches start out side by side, each in one piece."""
    seen = [False] * len(graph.up)
    found: list[int] = []
    stack = [n for n in range(count - 1, -1, -1) if not graph.up[n]]
    while stack:
        node = stack.pop()
        if seen[node]:
            continue
        seen[node] = True
        found.append(node)
        stack.extend(reversed(graph.down[node]))
    return found


def _sweep(graph: Ranked) -> None:
    """Sort ranks by their neighbours' mean places, downwards and upwards; the order with fewest crossings wins."""
    place = [0] * len(graph.up)
    for rank in graph.ranks:
        for i, node in enumerate(rank):
            place[node] = i
    best, fewest = [list(r) for r in graph.ranks], crossings(graph)
    for sweep in range(min(SWEEPS, BUDGET // max(1, len(graph.up)) + 2)):
        if not fewest:
            break
        downwards = sweep % 2 == 0
        neighbours = graph.up if downwards else graph.down
        for rank in graph.ranks if downwards else reversed(graph.ranks):
            means = {n: _mean([place[m] for m in neighbours[n]], place[n]) for n in rank}
            rank.sort(key=means.__getitem__)
            for i, node in enumerate(rank):
                place[node] = i
        crossed = crossings(graph)
        if crossed < fewest:
            best, fewest = [list(r) for r in graph.ranks], crossed
    graph.ranks = best


def crossings(graph: Ranked) -> int:
    """How many pairs of edges cross."""
    total = 0
    for upper, lower in zip(graph.ranks, graph.ranks[1:], strict=False):
        place = {n: i for i, n in enumerate(lower)}
        passed: list[int] = []
        for node in upper:
            ends = sorted(place[n] for n in graph.down[node])
            total += sum(len(passed) - bisect_right(passed, end) for end in ends)
            for end in ends:
                insort(passed, end)
    return total


def _mean(values: Sequence[int], default: float) -> float:
    return sum(values) / len(values) if values else default
