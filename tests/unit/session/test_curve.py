"""The best latency over time: only news counts, and a long story keeps its ends and its steps."""

from __future__ import annotations

from tuner.events import Curve


def test_only_a_new_best_is_a_point() -> None:
    curve = Curve()
    assert not curve.add(0.5, 0, None)
    assert curve.add(1.0, 1, 0.9)
    assert not curve.add(2.0, 2, 0.9)
    assert curve.add(3.004, 3, 0.8)
    assert curve.points == [[1.0, 1, 0.9], [3.0, 3, 0.8]]


def test_a_long_curve_keeps_its_ends_and_its_steps() -> None:
    curve = Curve()
    best = 10.0
    for n in range(1000):
        best -= 3.0 if n == 500 else 1e-3
        curve.add(float(n), n, best)
    assert len(curve.points) == 64
    assert (curve.points[0][0], curve.points[-1][0]) == (0.0, 999.0)
    assert max(a[2] - b[2] for a, b in zip(curve.points, curve.points[1:], strict=False)) >= 3.0


def test_a_resumed_curve_goes_on() -> None:
    curve = Curve([[1.0, 1, 0.9]])
    assert not curve.add(2.0, 1, 0.9)
    assert curve.add(3.0, 2, 0.8)
    assert len(curve.points) == 2
