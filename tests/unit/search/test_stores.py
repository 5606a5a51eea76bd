"""The comparison of features on a space that was left out."""

from __future__ import annotations

import numpy as np

from bench.search.stores import Space, left_out, ordered, summary, table


def space(name: str, seed: int) -> Space:
    """One whose times follow "ours" and have nothing to do with "stores"."""
    random = np.random.default_rng(seed)
    ours, noise = random.uniform(0, 1, (200, 3)), random.uniform(0, 1, (200, 3))
    return Space(name, np.zeros(200), 2 * ours[:, 0], {"ours": ours, "stores": noise})


SPACES = [space("a", 1), space("b", 2), space("c", 3)]


def test_a_kernel_of_many_stores_is_its_busiest_the_sum_and_the_number() -> None:
    stores = np.zeros((2, 20))
    stores[0, 0], stores[1, 3], stores[:, 19] = 5.0, 7.0, (1.0, 2.0)
    row = summary(stores)
    assert row.tolist() == [*stores[1], *stores.sum(axis=0), 2.0]


def test_features_that_tell_order_the_space_left_out_and_others_do_not() -> None:
    rank, best = left_out(SPACES, 0, ("ours",))
    assert rank > 0.95
    assert best > 0.95
    assert left_out(SPACES, 0, ("stores",))[0] < 0.3


def test_an_order_is_judged_by_its_beginning() -> None:
    times = np.log(np.arange(1.0, 101.0))
    right, wrong = (ordered(Space("x", times, times, {}), predicted) for predicted in (times, -times))
    assert np.allclose(right, (1.0, 1.0))
    assert np.allclose(wrong, (-1.0, 1 / 91))


def test_the_table_has_a_row_for_each_space() -> None:
    assert [line.split(" | ")[0] for line in table(SPACES).splitlines()[2:]] == ["| a", "| b", "| c"]
