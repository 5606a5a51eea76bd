"""The drawing of a network: ranks, order, places."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from service.exports.drawing.layers import crossings, ranked
from service.exports.drawing.placing import GAP_X, place

Edges = list[tuple[int, int]]
CHAIN: Edges = list(pairwise(range(40)))
DIAMOND: Edges = [(0, 1), (0, 2), (1, 3), (2, 3)]
SKIP: Edges = [(0, 1), (1, 2), (2, 3), (0, 3)]
DENSE: Edges = [(a, b) for b in range(20) for a in range(b)]  # everything reads everything before it


def random_graph(seed: int, nodes: int = 60) -> Edges:
    source = random.Random(seed)
    found = {(source.randrange(max(0, node - 9), node), node) for node in range(1, nodes) for _ in range(2)}
    return sorted(found)


GRAPHS = [CHAIN, DIAMOND, SKIP, DENSE, *map(random_graph, range(4))]


def count(edges: Edges) -> int:
    return 1 + max(max(edge) for edge in edges)


@pytest.mark.parametrize("edges", GRAPHS)
def test_every_edge_goes_down_rank_by_rank(edges: Edges) -> None:
    graph = ranked(count(edges), edges)
    rank = {node: number for number, nodes in enumerate(graph.ranks) for node in nodes}
    assert sorted(rank) == list(range(len(graph.up)))
    assert set(graph.chains) == set(edges)
    for (source, target), chain in graph.chains.items():
        assert (chain[0], chain[-1]) == (source, target)
        assert [rank[b] - rank[a] for a, b in pairwise(chain)] == [1] * (len(chain) - 1)
        assert all(node >= count(edges) for node in chain[1:-1]), "only stand-ins lie between"


def test_what_is_read_in_many_places_runs_as_one_thread() -> None:
    graph = ranked(count(DENSE), DENSE)
    assert len(graph.up) - count(DENSE) <= sum(count(DENSE) - 2 - node for node in range(count(DENSE) - 1))


def test_branches_that_do_not_need_to_cross_do_not() -> None:
    # Two branches of two, listed so that they start out crossed.
    graph = ranked(6, [(0, 2), (0, 1), (1, 4), (2, 3), (3, 5), (4, 5)])
    assert crossings(graph) == 0


def test_a_constant_source_stands_right_before_its_reader() -> None:
    graph = ranked(5, [(0, 1), (1, 2), (2, 3), (4, 3)])
    assert 4 in graph.ranks[2]


@pytest.mark.parametrize("edges", GRAPHS)
@pytest.mark.parametrize("aspect", [0.5, 2.0])
def test_boxes_never_overlap_and_lie_within_the_picture(edges: Edges, aspect: float) -> None:
    source = random.Random(1)
    number = count(edges)
    sizes = {node: (150.0, source.choice([20.0, 36.0, 52.0])) for node in range(number)}
    placed = place(ranked(number, edges), sizes, aspect)
    boxes = [
        (placed.x[n] - 75, placed.x[n] + 75, placed.top[n], placed.bottom[n], placed.column[n]) for n in range(number)
    ]
    for left, right, top, bottom, _ in boxes:
        assert left + 1e-6 >= 0 and right <= placed.width + 1e-6
        assert top >= 0 and bottom <= placed.height
    assert all(apart(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


def apart(a: Sequence[float], b: Sequence[float]) -> bool:
    beside = a[1] + GAP_X - 1e-6 <= b[0] or b[1] + GAP_X - 1e-6 <= a[0]
    return beside or a[3] <= b[2] or b[3] <= a[2]


def test_a_long_chain_is_cut_into_columns_of_about_the_same_height() -> None:
    sizes = dict.fromkeys(range(40), (150.0, 40.0))
    placed = place(ranked(40, CHAIN), sizes, 2.0)
    assert len(placed.end) > 3
    assert max(placed.end) < 1.5 * min(placed.end)
    assert 1.0 < placed.width / placed.height < 4.0
    assert [placed.column[n] for n in range(40)] == sorted(placed.column[n] for n in range(40))


def test_columns_are_cut_where_few_edges_cross() -> None:
    # Eight modules of four branches that meet in one node: cuts belong behind that node.
    edges: Edges = []
    for module in range(8):
        first = module * 5
        edges += [(first, first + 1 + branch) for branch in range(4)]
        edges += [(first + 1 + branch, first + 5) for branch in range(4)]
    graph = ranked(41, edges)
    placed = place(graph, dict.fromkeys(range(41), (150.0, 40.0)), 2.0)
    assert len(placed.end) > 1
    assert all(len(nodes) <= 1 for nodes in placed.tracks)


def test_a_single_node_and_nothing_at_all_can_be_placed() -> None:
    assert place(ranked(1, []), {0: (150.0, 40.0)}, 2.0).height > 40
    assert place(ranked(0, []), {}, 2.0).width == 0.0
