"""The Gaussian process on residuals: it fits what was measured, doubts what is far, and learns an offset at once."""

from __future__ import annotations

import numpy as np
import pytest

from cost_model.residuals import AMPLITUDES, NOISE, Residuals


def grid(count: int = 12) -> np.ndarray:
    axis = np.linspace(0, 2, count)
    return np.stack([a.ravel() for a in np.meshgrid(axis, axis)], axis=1)


def bowl(points: np.ndarray) -> np.ndarray:
    return 0.5 * (points[:, 0] - 1.2) ** 2 + 0.2 * np.sin(2 * points[:, 1]) - 3.0


def test_without_measurements_all_points_are_alike() -> None:
    own = Residuals.fit(np.zeros((0, 2)), np.zeros(0))
    mean, std = own.at(grid())
    assert np.array_equal(mean, np.zeros(144))
    assert np.ptp(std) == 0 and std[0] > NOISE


def test_one_measurement_moves_all_points() -> None:
    own = Residuals.fit(grid()[:1], np.array([-3.0]))
    mean, std = own.at(grid())
    assert mean.max() < -2  # the question's offset is known now
    assert std[0] < 2 * NOISE < std[-1]


def test_a_smooth_function_is_known_after_a_few_measurements() -> None:
    points = grid()
    known = np.random.default_rng(0).choice(144, 20, replace=False)
    own = Residuals.fit(points[known], bowl(points[known]))
    mean, std = own.at(points)
    assert np.abs(mean - bowl(points)).max() < 0.2  # at the edges; less inside
    assert bowl(points)[np.argmin(mean)] < bowl(points).min() + 0.02
    assert (np.abs(mean - bowl(points)) < 3 * std + 0.02).mean() > 0.95


def test_scatter_alone_gives_the_least_amplitude() -> None:
    values = NOISE * np.random.default_rng(1).standard_normal(40)
    assert Residuals.fit(grid()[::3][:40], values).amplitude == AMPLITUDES[0]


@pytest.mark.parametrize("count", [0, 7])
def test_the_covariance_has_the_variances_on_its_diagonal(count: int) -> None:
    points = grid()
    own = Residuals.fit(points[:count], bowl(points[:count]))
    _, std = own.at(points[80:90])
    offset = 0.0 if count else np.diag(own.covariance(points[80:81]))[0] - std[0] ** 2
    assert np.allclose(np.diag(own.covariance(points[80:90])) - offset, std**2, atol=NOISE**2)


def test_a_point_measured_twice_is_no_obstacle() -> None:
    points = np.zeros((30, 2))
    mean, std = Residuals.fit(points, np.full(30, 0.5)).at(np.zeros((1, 2)))
    assert mean[0] == pytest.approx(0.5, abs=0.02)
    assert np.isfinite(std).all()
