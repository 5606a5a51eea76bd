"""What a job keeps back of its seconds for building and comparing whole models."""

from __future__ import annotations

import pytest

from tuner.allowance import (
    COMPARE_SECONDS,
    FINISH_SECONDS,
    SEARCH_LEAST,
    build_seconds,
    compare_seconds,
    search_end,
    why_no_baselines,
    why_no_time,
)
from tuner.builds import BuildCost

FIRST = BuildCost(compiling=10.0, rest=2.0)


def test_plans_whose_kernels_the_search_compiles_keep_little_back() -> None:
    measured = build_seconds(FIRST, 2, 0.0, baselines=False)
    recalled = build_seconds(FIRST, 2, 1.0, baselines=False)
    assert measured == pytest.approx(2 * 1.5 * 2.0) and recalled == pytest.approx(2 * 1.5 * 12.0)
    assert measured < build_seconds(FIRST, 2, 0.5, baselines=False) < recalled
    assert build_seconds(FIRST, 2, 0.0, baselines=True) == pytest.approx(measured + 2.5 * 12.0)


def test_whole_models_are_timed_for_as_long_as_they_take() -> None:
    least, most = COMPARE_SECONDS
    assert compare_seconds(1e-3, None, 0.0) == least and compare_seconds(10.0, None, None) == most
    assert compare_seconds(0.1, 9.0, 0.0) == pytest.approx(15.0)  # the whole counts where it was timed
    assert compare_seconds(None, 0.1, None) == pytest.approx(15.0)
    assert compare_seconds(None, 0.1, 10.0 + FINISH_SECONDS) == pytest.approx(10.0)  # no more than there is
    assert compare_seconds(None, None, None) == least and compare_seconds(None, 0.1, 1.0) == least


def test_the_search_ends_in_time_and_has_its_share() -> None:
    assert search_end(100.0, 10.0, 20.0, 15.0, 3.0) == pytest.approx(100 - FINISH_SECONDS - 20 - 15 - 6)
    assert search_end(100.0, 40.0, 200.0, 15.0, 3.0) == pytest.approx(40 + SEARCH_LEAST * 60)


def test_baselines_give_way_where_they_take_much_of_the_budget() -> None:
    """FIRST took 12 s, so that the two would take 30."""
    assert why_no_baselines(None, FIRST) is None
    assert why_no_baselines(150.0, FIRST) is None
    assert why_no_baselines(149.0, FIRST) == "Building it and its like would take about 30 of the 149 seconds."
    quick = BuildCost(compiling=6.0, rest=1.2)
    assert why_no_baselines(20.0, quick) is None  # 18 s


def test_a_baseline_that_the_time_left_does_not_suffice_for_is_left_out() -> None:
    assert why_no_time(None, 1e6, 1e6, 20.0) is None
    assert why_no_time(300.0, 245.0 - FINISH_SECONDS, 30.0, 20.0) is None  # 35 are left
    assert why_no_time(300.0, 255.0 - FINISH_SECONDS, 30.0, 20.0) == (
        "Building it would take about 30 seconds, and 25 of 300 are left."
    )
    assert why_no_time(300.0, 400.0, 10.0, 20.0) is None  # a short one
    assert "and 0 of 300 are left" in str(why_no_time(300.0, 400.0, 11.0, 20.0))
