"""Layered drawing, second half: coordinates. Long networks run in columns, as text does in a newspaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from service.exports.drawing.layers import Ranked

GAP_X = 14.0  # between neighbours of one rank
GAP_THREADS = 1.0  # between two stand-ins
GAP_Y = 20.0  # between ranks
THREAD = 7.0  # width of a stand-in: edges that pass by keep this distance
GUTTER = 30.0  # between columns, where edges climb back to the top
MARGIN = 16.0  # above and below columns, where edges change over
TRACK = 4.0  # between edges that change columns side by side
SWEEPS = 16
STRAIGHT = 8.0  # weight of an edge between two stand-ins: long edges should run straight
CROSSING = 0.12  # what one more edge across a column's end costs, beside unequal column heights


@dataclass(frozen=True)
class Placed:
    """Centres ``x``, ``top`` and ``bottom`` of all nodes, and the columns that the ranks were cut into."""

    x: list[float]
    top: list[float]
    bottom: list[float]
    column: list[int]  # of each node
    right: list[float]  # right edge of each column
    end: list[float]  # lower edge of each column
    tracks: list[list[int]]  # of each column: nodes whose edges go over into the next, from right to left
    margin: float  # above the columns
    width: float
    height: float


def place(graph: Ranked, sizes: Mapping[int, tuple[float, float]], aspect: float) -> Placed:
    """Coordinates for nodes of these (width, height), in about ``aspect`` times as much width as height.

    Stand-ins have no size of their own: they are as high as their rank, so that threads pass boxes upright.
    """
    count = len(graph.up)
    widths = [sizes.get(n, (THREAD, 0.0))[0] for n in range(count)]
    heights = [max((sizes.get(n, (0.0, 0.0))[1] for n in rank), default=0.0) + GAP_Y for rank in graph.ranks]
    cuts = columns(graph, widths, heights, aspect)
    x, tops, bottoms, column = [0.0] * count, [0.0] * count, [0.0] * count, [0] * count
    right: list[float] = []
    end: list[float] = []
    tracks: list[list[int]] = []
    margin = MARGIN + TRACK * max((len(_over(graph, cut)) for cut in cuts[1:-1]), default=0)
    left = 0.0
    for number, (first, last) in enumerate(pairwise(cuts)):
        ranks = graph.ranks[first:last]
        centres = _across(graph, ranks, widths)
        low = min(centres[n] - widths[n] / 2 for rank in ranks for n in rank)
        high = max(centres[n] + widths[n] / 2 for rank in ranks for n in rank)
        y = margin
        for rank, height in zip(ranks, heights[first:last], strict=True):
            for node in rank:
                own = sizes.get(node, (0.0, height - GAP_Y))[1]
                x[node], column[node] = left + centres[node] - low, number
                tops[node] = y + (height - GAP_Y - own) / 2
                bottoms[node] = tops[node] + own
            y += height
        right.append(left + high - low)
        end.append(y - GAP_Y)
        tracks.append(sorted(_over(graph, last), key=lambda n: -x[n]))
        left = right[-1] + GUTTER + TRACK * len(tracks[-1])
    width, height = max(right, default=0.0), max(end, default=0.0) + margin
    return Placed(x, tops, bottoms, column, right, end, tracks, margin, width, height)


def _over(graph: Ranked, cut: int) -> list[int]:
    """Nodes with edges across a cut between ranks; all edges of one node go together."""
    return [n for n in graph.ranks[cut - 1] if graph.down[n]] if 0 < cut < len(graph.ranks) else []


def columns(graph: Ranked, widths: Sequence[float], heights: Sequence[float], aspect: float) -> list[int]:
    """Ranks at which a new column begins, 0 and the end included: columns about equally high, few edges across."""
    across = [_offsets(graph, rank, widths)[-1] + widths[rank[-1]] for rank in graph.ranks]
    total = sum(heights)
    typical = sorted(across)[len(across) * 3 // 4] + GUTTER if across else 1.0
    wanted = max(1, round((aspect * total / typical) ** 0.5))
    if wanted == 1:
        return [0, len(heights)] if heights else [0]
    target = total / wanted
    sums = [0.0]
    for height in heights:
        sums.append(sums[-1] + height)
    cost, back = [0.0] + [inf] * len(heights), [0] * (len(heights) + 1)
    for end in range(1, len(heights) + 1):
        edges = max(0, len(_over(graph, end)) - 1)
        for start in range(end - 1, -1, -1):
            height = sums[end] - sums[start]
            if height > 1.35 * target and start < end - 1:
                break
            unequal = (height / target - 1) ** 2 * (0.3 if end == len(heights) and height < target else 1.0)
            price = cost[start] + unequal + CROSSING * edges
            if price < cost[end]:
                cost[end], back[end] = price, start
    cuts = [len(heights)]
    while cuts[-1]:
        cuts.append(back[cuts[-1]])
    return cuts[::-1]


def _across(graph: Ranked, ranks: Sequence[Sequence[int]], widths: Sequence[float]) -> dict[int, float]:
    """Centres of the nodes of one column: near their neighbours, in their order, without overlap."""
    centres: dict[int, float] = {}
    for rank in ranks:
        offsets = _offsets(graph, rank, widths)
        centres.update((node, offset - offsets[-1] / 2) for node, offset in zip(rank, offsets, strict=True))
    for sweep in range(SWEEPS):
        sides = [graph.up, graph.down] if sweep == SWEEPS - 1 else [(graph.up, graph.down)[sweep % 2]]
        for rank in ranks if sweep % 2 == 0 else reversed(ranks):
            goals, weights = [], []
            for node in rank:
                near = [(centres[m], _pull(graph, node, m)) for side in sides for m in side[node] if m in centres]
                weight = sum(w for _, w in near)
                goals.append(sum(c * w for c, w in near) / weight if weight else centres[node])
                weights.append(weight or 0.01)
            for node, centre in zip(rank, _apart(goals, weights, _offsets(graph, rank, widths)), strict=True):
                centres[node] = centre
    return centres


def _pull(graph: Ranked, a: int, b: int) -> float:
    stand_ins = (a >= graph.real) + (b >= graph.real)
    return (3.0, 1.0, STRAIGHT)[stand_ins]


def _offsets(graph: Ranked, rank: Sequence[int], widths: Sequence[float]) -> list[float]:
    """Least distance of each node's centre from the first one's."""
    offsets = [0.0]
    for a, b in pairwise(rank):
        gap = GAP_THREADS if min(a, b) >= graph.real else GAP_X
        offsets.append(offsets[-1] + (widths[a] + widths[b]) / 2 + gap)
    return offsets


def _apart(goals: Sequence[float], weights: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """The places nearest to ``goals`` (weighted squares) that keep order and distance.

    With the distances taken off this is isotonic regression, solved by pooling adjacent violators.
    """
    pools: list[tuple[float, float, int]] = []  # (mean, weight, members)
    for goal, weight, offset in zip(goals, weights, offsets, strict=True):
        mean, members = goal - offset, 1
        while pools and pools[-1][0] > mean:
            other, heavy, many = pools.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, members = weight + heavy, members + many
        pools.append((mean, weight, members))
    flat = [mean for mean, _, members in pools for _ in range(members)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=True)]
