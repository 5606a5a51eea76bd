"""One measurement of a block corrects what is predicted of it on other core counts."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.search.kriging import NOISE, corrected

CORES = (1, 2, 4, 8, 16, 32)
MEAN, STD = np.zeros((2, 6)), np.full((2, 6), 0.1)


def seen(**logs: float) -> np.ndarray:
    """Question 0 measured on these counts."""
    seconds = np.full((2, 6), np.nan)
    for cores, log in logs.items():
        seconds[0, CORES.index(int(cores[1:]))] = np.exp(log)
    return seconds


def test_what_was_not_measured_keeps_its_prediction() -> None:
    mean, std = corrected(MEAN, STD, seen(c4=0.1), CORES)
    assert (mean[1] == 0).all() and (std[1] == 0.1).all()


def test_near_core_counts_are_corrected_more_than_far_ones() -> None:
    mean, std = corrected(MEAN, STD, seen(c4=0.1), CORES)
    assert mean[0, 2] > mean[0, 3] > mean[0, 4] > mean[0, 5] > 0
    assert std[0, 2] < std[0, 3] < std[0, 4] < std[0, 5] < 0.1


def test_a_time_is_believed_up_to_its_noise() -> None:
    mean, std = corrected(MEAN, STD, seen(c4=0.1), CORES)
    assert mean[0, 2] == pytest.approx(0.1 * 0.1**2 / (0.1**2 + NOISE**2))
    assert std[0, 2] < NOISE


def test_a_block_that_surprises_is_less_certain_elsewhere() -> None:
    _, expected = corrected(MEAN, STD, seen(c4=0.1), CORES)
    mean, surprised = corrected(MEAN, STD, seen(c4=1.0), CORES)
    assert mean[0, 2] == pytest.approx(1.0, abs=1e-3)  # believed all the same
    assert surprised[0, 5] > 3 * expected[0, 5]


def test_failures_say_nothing_about_other_counts() -> None:
    failed = np.full((2, 6), np.nan)
    failed[0, 1] = np.inf
    mean, std = corrected(MEAN, STD, failed, CORES)
    assert (mean == MEAN).all() and (std == STD).all()
