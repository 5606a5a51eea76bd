"""The CostModel seam: one suite that every implementation passes, and what the trees must be able to learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cost_model.base import CostModel
from cost_model.boosted import BoostedTrees
from cost_model.quality import rank_correlation

Make = Callable[[], CostModel]
MODELS: list[Make] = [BoostedTrees, lambda: BoostedTrees(members=1, rounds=20), lambda: BoostedTrees(threads=2, seed=7)]


def task(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-seconds of an imaginary kernel: a roofline of two terms, a penalty for waste, and 3% of scatter."""
    random = np.random.default_rng(seed)
    features = random.uniform(0, 8, (count, 6)).astype(np.float32)
    work, moved, tile = features[:, 0], features[:, 1], features[:, 2]
    targets = np.maximum(work, moved) + 0.3 * (tile - 4) ** 2 + 0.03 * random.standard_normal(count)
    return features, targets.astype(np.float64)


@pytest.mark.parametrize("make", MODELS)
class TestConformance:
    def test_before_the_first_update_it_says_zero_give_or_take_one(self, make: Make) -> None:
        mean, std = make().predict(task(5, 0)[0])
        assert np.array_equal(mean, np.zeros(5))
        assert np.array_equal(std, np.ones(5))

    def test_answers_have_one_number_per_row(self, make: Make) -> None:
        model = make()
        model.update(*task(40, 0))
        for count in (1, 17):
            mean, std = model.predict(task(count, 1)[0])
            assert mean.shape == std.shape == (count,)
            assert np.isfinite(mean).all()
            assert (std > 0).all()

    def test_equal_calls_give_equal_answers(self, make: Make) -> None:
        answers = []
        for _ in range(2):
            model = make()
            model.update(*task(30, 0))
            model.update(*task(60, 1))
            answers.append(np.stack(model.predict(task(20, 2)[0])))
        assert np.array_equal(answers[0], answers[1])

    def test_an_update_forgets_what_was_learned_before(self, make: Make) -> None:
        fresh, used = make(), make()
        used.update(task(60, 5)[0], -task(60, 5)[1])
        for model in (fresh, used):
            model.update(*task(60, 0))
        rows = task(20, 2)[0]
        assert np.array_equal(fresh.predict(rows)[0], used.predict(rows)[0])

    def test_columns_that_do_not_apply_are_no_obstacle(self, make: Make) -> None:
        features, targets = task(80, 0)
        features[:, 4] = np.nan
        features[::2, 3] = np.nan
        model = make()
        model.update(features, targets)
        mean, std = model.predict(np.full((3, 6), np.nan, dtype=np.float32))
        assert np.isfinite(mean).all()
        assert np.isfinite(std).all()

    def test_absence_itself_can_be_learned(self, make: Make) -> None:
        features = np.zeros((60, 2), dtype=np.float32)
        features[::2, 1] = np.nan
        targets = np.where(np.isnan(features[:, 1]), -9.0, -4.0)
        model = make()
        model.update(features, targets)
        absent, present = model.predict(np.array([[0, np.nan], [0, 0]], dtype=np.float32))[0]
        assert absent < -7 < -6 < present

    def test_inputs_are_left_alone(self, make: Make) -> None:
        features, targets = task(30, 0)
        before = features.copy(), targets.copy()
        make().update(features, targets)
        assert np.array_equal(features, before[0])
        assert np.array_equal(targets, before[1])

    def test_learns_an_order_it_has_not_seen(self, make: Make) -> None:
        model = make()
        model.update(*task(400, 0))
        rows, truth = task(300, 1)
        correlation = rank_correlation(model.predict(rows)[0], truth)
        assert correlation is not None
        assert correlation > 0.9


def test_levels_are_kept_not_only_orders() -> None:
    model = BoostedTrees()
    features, targets = task(400, 0)
    model.update(features, targets - 14)
    rows, truth = task(300, 1)
    assert np.median(np.abs(model.predict(rows)[0] - (truth - 14))) < 0.35


def test_the_spread_has_a_floor_and_grows_where_nothing_was_seen() -> None:
    model = BoostedTrees(members=5, floor=0.05)
    features, targets = task(40, 0)
    model.update(features, targets)
    _, std = model.predict(task(500, 1)[0])
    assert std.min() >= 0.05
    assert std.max() > 0.05


def test_trained_says_whether_it_learned() -> None:
    model = BoostedTrees()
    assert not model.trained
    model.update(*task(1, 0))  # one sample has no slope: still untrained
    assert not model.trained
    model.update(*task(2, 0))
    assert model.trained


def test_rank_correlation_of_orders() -> None:
    rising = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(rising, np.exp(rising)) == pytest.approx(1.0)  # order alone counts
    assert rank_correlation(rising, -rising) == pytest.approx(-1.0)
    assert rank_correlation(rising, np.array([2.0, 1.0, 4.0, 3.0])) == pytest.approx(0.6)


def test_ties_share_their_mean_rank() -> None:
    # ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 * 5)
    found = rank_correlation(np.array([1.0, 2.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0, 40.0]))
    assert found == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    # nothing hangs on which of the tied comes first
    assert rank_correlation(np.array([1.0, 2.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0, 40.0])) == pytest.approx(found)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [3.0, 3.0, 3.0]])
def test_no_correlation_where_there_is_no_order(values: list[float]) -> None:
    measured = np.array(values)
    assert rank_correlation(np.arange(len(values), dtype=float), measured) is None
    assert rank_correlation(measured, np.arange(len(values), dtype=float)) is None
