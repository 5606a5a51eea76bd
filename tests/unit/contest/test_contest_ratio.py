"""Ratios and intervals: what is concluded from turns, as pure functions."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tuner.errors import UserError
from tuner.measure.contest_result import Contestant, ContestResult, Ratio, Standing, Turn, fastest, interval, ratio


def standing(name: str, *turns: Turn) -> Standing:
    return Standing(Contestant(name, "onnxruntime", Path("m.onnx")), turns)


def result(*standings: Standing) -> ContestResult:
    return ContestResult(standings, threads=2, rounds=max(len(s.turns) for s in standings))


def turns(seconds: list[float], disturbed: tuple[int, ...] = ()) -> list[Turn]:
    return [Turn(i, (s,), i in disturbed) for i, s in enumerate(seconds)]


def test_ratio_is_the_others_latency_over_ours() -> None:
    found = ratio(result(standing("ours", *turns([1.0] * 6)), standing("other", *turns([2.0] * 6))), "ours", "other")
    assert found == Ratio(2.0, 2.0, 2.0, 6)


def test_pairs_within_rounds_so_drift_of_the_machine_cancels() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 4.0, 2.0, 1.0]
    ours, other = standing("ours", *turns(drift)), standing("other", *turns([1.5 * d for d in drift]))
    found = ratio(result(ours, other), "ours", "other")
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_rounds_that_only_one_of_them_had_do_not_count() -> None:
    ours, other = standing("ours", *turns([1.0] * 9)), standing("other", *turns([3.0, 3.0]))
    found = ratio(result(ours, other), "ours", "other")
    assert found is not None
    assert found.pairs == 2
    assert ratio(result(ours, standing("none")), "ours", "none") is None


def test_disturbed_pairs_are_left_out_unless_most_are_disturbed() -> None:
    ours = standing("ours", *turns([1.0] * 6))
    few = ratio(result(ours, standing("other", *turns([2, 2, 2, 2, 9, 9], (4, 5)))), "ours", "other")
    most = ratio(result(ours, standing("other", *turns([2, 2, 9, 9, 9, 9], (2, 3, 4, 5)))), "ours", "other")
    assert few is not None and most is not None
    assert (few.high, few.pairs) == (2.0, 4)
    assert (most.high, most.pairs) == (9.0, 6)


@pytest.mark.parametrize(("n", "first"), [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (15, 3), (20, 5), (100, 39)])
def test_interval_uses_the_order_statistics_of_the_tables(n: int, first: int) -> None:
    values = [float(i) for i in range(n)]
    random.Random(1).shuffle(values)
    found = interval(values)
    assert (found.low, found.high, found.pairs) == (first, n - 1 - first, n)


def test_interval_covers_the_true_median_at_least_95_times_in_100() -> None:
    draw = random.Random(0)
    hits = 0
    for _ in range(2000):
        found = interval([draw.expovariate(1.0) for _ in range(15)])
        hits += found.low <= 0.6931 <= found.high
    assert 0.95 <= hits / 2000 <= 0.98


def test_a_goal_is_reached_if_the_interval_reaches_it() -> None:
    assert Ratio(0.98, 0.96, 1.0, 15).reaches(1.0)
    assert not Ratio(0.98, 0.96, 0.99, 15).reaches(1.0)


def test_median_leaves_disturbed_turns_out_and_min_is_the_fastest_call_of_all() -> None:
    who = standing("a", Turn(0, (3.0, 1.0, 2.0)), Turn(1, (2.0,)), Turn(2, (0.5, 9.0, 9.0), disturbed=True))
    assert who.median == 2.0
    assert who.min == 0.5
    assert who.samples == (3.0, 1.0, 2.0, 2.0)


def test_a_contestant_without_turns_has_no_times() -> None:
    assert standing("a").median is None
    assert standing("a").min is None


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="'b'"):
        result(standing("a", *turns([1.0])))["b"]


def test_the_fastest_wins_its_rounds_whatever_the_medians_say() -> None:
    """The host is twice as slow in some rounds, and ours lost its turns in two of the fast ones."""
    default = standing("default", *turns([4.0, 4.0, 4.0, 8.0, 8.0]))
    tuned = standing("tuned", *turns([9.0, 9.0, 3.0, 6.0, 6.0], disturbed=(0, 1)))
    both = result(tuned, default)
    assert default.median is not None and tuned.median is not None and default.median < tuned.median
    assert fastest(both, ["tuned", "default"]) == "tuned"


def test_where_rounds_disagree_the_fastest_calls_decide() -> None:
    default = standing("default", *turns([2.0] * 4 + [1.0] * 2))
    both = result(standing("tuned", *turns([1.5] * 4 + [3.0] * 2)), default)
    over = ratio(both, "tuned", "default")
    assert over is not None and over.low < 1 < over.median
    assert fastest(both, ["tuned", "default"]) == "default"
    again = result(standing("tuned", *turns([1.5] * 4 + [3.0, 0.9])), default)
    assert fastest(again, ["tuned", "default"]) == "tuned"


def test_what_was_not_timed_cannot_win() -> None:
    both = result(standing("tuned"), standing("greedy", *turns([2.0])), standing("default", *turns([1.0])))
    assert fastest(both, ["tuned", "greedy", "default"]) == "default"
    assert fastest(result(standing("tuned"), standing("default")), ["tuned", "default"]) is None


def test_without_a_round_in_common_medians_decide() -> None:
    slow, quick = standing("default", Turn(0, (2.0,))), standing("tuned", Turn(1, (1.0,)))
    assert fastest(result(quick, slow), ["tuned", "default"]) == "tuned"
