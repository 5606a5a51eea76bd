"""The roofline of a device as a picture: what it can reach at each operational intensity.

S. Williams, A. Waterman, D. Patterson: Roofline: An Insightful Visual Performance Model for Multicore Architectures.
Communications of the ACM 52(4), 2009. attainable = min(peak, bandwidth x intensity), both axes logarithmic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 14, 34  # margins for the labels
_DECADES = (-1, 3)  # operations per byte shown: 0.1 to 1000


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Roofline:
    """The picture in a box of ``width`` x ``height``."""

    path: str
    ridge: tuple[float, float]  # where computing begins to bind
    intensity: float  # operations per byte at the ridge
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def roofline(peak: float | None, bandwidth: float | None) -> Roofline | None:
    """The picture for a peak in operations and a bandwidth in bytes per second; None unless both are known."""
    if not peak or not bandwidth:
        return None
    low, high = (10.0**power for power in _DECADES)
    ridge = peak / bandwidth
    floor = math.floor(math.log10(min(peak, bandwidth * low)))
    ceiling = math.log10(peak) + 0.15

    def x(intensity: float) -> float:
        share = (math.log10(intensity) - _DECADES[0]) / (_DECADES[1] - _DECADES[0])
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(rate: float) -> float:
        share = (math.log10(rate) - floor) / (ceiling - floor)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    corner = min(max(ridge, low), high)
    path = (
        f"M{x(low)} {y(min(peak, bandwidth * low))}L{x(corner)} {y(min(peak, bandwidth * corner))}L{x(high)} {y(peak)}"
    )
    return Roofline(
        path=path,
        ridge=(x(corner), y(min(peak, bandwidth * corner))),
        intensity=ridge,
        x_ticks=[Tick(x(10.0**power), f"{10.0**power:g}") for power in range(_DECADES[0], _DECADES[1] + 1)],
        y_ticks=[Tick(y(10.0**power), _rate(10.0**power)) for power in range(floor, math.floor(ceiling) + 1)],
    )


def _rate(flops: float) -> str:
    """A round rate in short: 10 G, 1 T."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if flops >= factor:
            return f"{flops / factor:g} {unit}"
    return f"{flops:g}"
