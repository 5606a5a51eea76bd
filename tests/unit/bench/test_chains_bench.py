"""Which blocks the bench of chains compares: neighbours of the greedy plan, each pair of computations once."""

from __future__ import annotations

from bench.chains import pairs_of
from tests.unit.search.search_fakes import DEVICE
from tests.unit.search.test_chains import net


def test_neighbours_are_paired_and_equal_pairs_are_compared_once() -> None:
    pairs = list(pairs_of("net", net(6), DEVICE))
    assert [p.about for p in pairs] == [
        "conv1x1 32x28x28->32x28x28 -> depthwise3x3 32x28x28->32x28x28",
        "depthwise3x3 32x28x28->32x28x28 -> conv1x1 32x28x28->32x28x28",
    ]
    assert [(p.first.template, p.second.template, p.both.template) for p in pairs] == [
        ("conv2d", "depthwise", "conv_chain"),
        ("depthwise", "conv2d", "conv_chain"),
    ]
    assert all(p.both.operations == p.first.operations + p.second.operations for p in pairs)
