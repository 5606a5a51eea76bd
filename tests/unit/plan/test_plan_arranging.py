"""Stages of calls side by side: never in a wrong order, never on more cores than there are, only where it pays."""

from __future__ import annotations

import random

import pytest

from tuner.plan.arranging import MOST_UNITS, Branch, Sharing, Timed, arranged, check_order, in_turn

CORES = 16
CPU = Sharing(CORES, fork=1e-6, overrun=1.02)
NARROW = Timed({1: 10e-6, 2: 9e-6, 16: 9e-6})  # more cores hardly help
WIDE = Timed({1: 160e-6, 2: 80e-6, 16: 10e-6})  # they help fully
DIAMOND = [frozenset(), frozenset({0}), frozenset({0}), frozenset({1, 2})]
# the way in; four branches, of one, two, two and one call; the way out
MODULE = [frozenset(), frozenset({0}), frozenset({0}), frozenset({2}), frozenset({0}), frozenset({4}), frozenset({0}),
          frozenset({1, 3, 5, 6})]  # fmt: skip


def checked(needs: list[frozenset[int]], times: list[Timed], sharing: Sharing = CPU) -> tuple[tuple[Branch, ...], ...]:
    """The stages, which hold what is promised of all."""
    best = arranged(needs, times, sharing)
    check_order(needs, [str(k) for k in range(len(needs))], best.stages)
    for stage in best.stages:
        assert len(stage) == 1 or sum(branch.cores for branch in stage) <= sharing.cores
        assert sharing.chains or all(b.cores == 1 for b in stage if len(b.calls) > 1)
    assert best.seconds <= in_turn(times, sharing.cores).seconds * (1 + 1e-9)
    return best.stages


def test_calls_that_cores_hardly_help_share_them() -> None:
    stages = checked(DIAMOND, [WIDE, NARROW, NARROW, WIDE])
    assert [{b.calls for b in stage} for stage in stages] == [{(0,)}, {(1,), (2,)}, {(3,)}]


def test_calls_that_cores_help_fully_run_in_turn() -> None:
    assert all(len(stage) == 1 for stage in checked(DIAMOND, [WIDE] * 4))


def test_calls_that_need_one_another_are_a_lane_on_one_core() -> None:
    """A branch of two short calls beside one that takes as long as both."""
    short, long = Timed({1: 5e-6, 16: 4e-6}), Timed({8: 10e-6, 16: 9e-6})
    needs = [frozenset(), frozenset({0}), frozenset({1}), frozenset({0}), frozenset({2, 3})]
    stages = checked(needs, [WIDE, short, short, long, WIDE])
    assert stages[1] == (Branch((1, 2), 1), Branch((3,), 8))


def test_without_a_time_on_one_core_such_calls_are_no_lane() -> None:
    short, long = Timed({2: 5e-6, 16: 4e-6}), Timed({8: 10e-6, 16: 9e-6})
    needs = [frozenset(), frozenset({0}), frozenset({1}), frozenset({0}), frozenset({2, 3})]
    assert all(len(b.calls) == 1 for stage in checked(needs, [WIDE, short, short, long, WIDE]) for b in stage)


def test_a_module_s_branches_share_the_cores() -> None:
    stages = checked(MODULE, [WIDE, *[NARROW] * 6, WIDE])
    assert max(len(stage) for stage in stages) == 4


def test_what_waits_for_memory_gains_nothing_by_company() -> None:
    bound = Timed({1: 10e-6, 16: 10e-6}, floor=10e-6)
    assert all(len(stage) == 1 for stage in checked(DIAMOND, [WIDE, bound, bound, WIDE]))


def test_one_that_has_a_time_on_all_cores_alone_has_no_company() -> None:
    alone = Timed({CORES: 10e-6})
    assert all(len(stage) == 1 for stage in checked(DIAMOND, [WIDE, alone, NARROW, WIDE]))


@pytest.mark.parametrize("chains", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_any_graph_runs_in_order_and_no_slower_than_in_turn(seed: int, chains: bool) -> None:
    draw = random.Random(seed)
    count = draw.randrange(3, MOST_UNITS + 4)  # beyond MOST_UNITS: what saves most comes first
    needs = [frozenset(draw.sample(range(k), min(k, draw.randrange(0, 3)))) for k in range(count)]
    times = []
    for _ in range(count):
        alone, useful = draw.uniform(2e-6, 2e-4), draw.choice([1, 2, 4, 8, 16])
        times.append(Timed({c: alone / min(c, useful) for c in (1, 2, 4, 8, 16)}, alone * draw.uniform(0, 0.1)))
    checked(needs, times, Sharing(CORES, 1e-6, 1.02, chains))


@pytest.mark.parametrize(
    "stages",
    [
        [(Branch((1,), 1),), (Branch((0,), 1),), (Branch((2,), 1),), (Branch((3,), 1),)],
        [(Branch((0,), 1),), (Branch((1,), 1), Branch((3,), 1)), (Branch((2,), 1),)],
        [(Branch((0,), 1),), (Branch((1,), 1),), (Branch((1,), 1), Branch((2,), 1)), (Branch((3,), 1),)],
        [(Branch((0,), 1),), (Branch((1,), 1),), (Branch((2,), 1),)],
    ],
    ids=["too early", "beside what it needs", "twice", "left out"],
)
def test_a_wrong_order_is_told(stages: list[tuple[Branch, ...]]) -> None:
    with pytest.raises(ValueError, match=r"runs twice|leaves calls out"):
        check_order(DIAMOND, "abcd", stages)
