"""Which blocks the bench of chains compares: neighbours of the greedy plan, each run of computations once."""

from __future__ import annotations

from bench.chains import chains_of
from tests.unit.search.search_fakes import DEVICE
from tests.unit.search.test_chains import net


def test_neighbours_are_compared_in_twos_and_threes_and_equal_runs_once() -> None:
    chains = list(chains_of("net", net(6), DEVICE))
    one, deep = "conv1x1 32x28x28->32x28x28", "depthwise3x3 32x28x28->32x28x28"
    assert [c.about for c in chains] == [f"{one} -> {deep}", f"{deep} -> {one}", f"{one} -> {deep} -> {one}"]
    assert [([case.template for case in c.apart], c.whole.template) for c in chains] == [
        (["conv2d", "depthwise"], "conv_chain"),
        (["depthwise", "conv2d"], "conv_chain"),
        (["conv2d", "depthwise", "conv2d"], "inverted_residual"),
    ]
    assert all(c.whole.operations == sum(case.operations for case in c.apart) for c in chains)
