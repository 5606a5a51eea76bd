"""Plots as hand-written SVG: share of the best speed against measurements, one line per search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from statistics import quantiles
from typing import Any

COLOURS = ("#0b6e4f", "#08a045", "#7fb800", "#c3d350", "#8d99ae", "#f26419", "#6a4c93", "#c77dff")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 460, 64, 44, 250, 52  # pixels
MOST = 500  # measurements on the horizontal axis, which is logarithmic
LOWEST = 0.4  # share of the best at the foot of the vertical axis


def curves(rows: Mapping[tuple[str, str, int], Mapping[str, Any]], searches: Sequence[str]) -> str:
    """Median over all runs of each search, quartiles as a band."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" role="img"><title>Share of the best speed against measurements</title>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *_axes(),
    ]
    for number, search in enumerate(searches):
        runs = [row["curve"] for (_, s, _), row in rows.items() if s == search]
        colour = COLOURS[number % len(COLOURS)]
        y = TOP + 14 + 22 * number
        x = WIDTH - RIGHT + 16
        label = escape(search) if runs else f"{escape(search)} (missing)"
        parts.append(f'<line x1="{x}" x2="{x + 20}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 26}" y="{y + 4}">{label}</text>')
        if len(runs) >= 2:
            parts += _line(runs, colour)
    return "\n".join([*parts, "</svg>\n"])


def _line(runs: Sequence[Sequence[float]], colour: str) -> list[str]:
    ticks = sorted({round(MOST ** (k / 160)) for k in range(161)})
    low: list[str] = []
    middle: list[str] = []
    high: list[str] = []
    for n in ticks:
        # a run that ended had reached the highest level, or knew all points
        q = quantiles([run[min(n, len(run)) - 1] for run in runs], n=4, method="inclusive")
        for line, value in zip((low, middle, high), q, strict=True):
            line.append(f"{_x(n):.1f},{_y(value):.1f}")
    band = " ".join([*low, *reversed(high)])
    return [
        f'<polygon points="{band}" fill="{colour}" fill-opacity="0.1"/>',
        f'<polyline points="{" ".join(middle)}" fill="none" stroke="{colour}" stroke-width="2.2"/>',
    ]


def _axes() -> list[str]:
    right, foot = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for n in (1, 2, 5, 10, 20, 50, 100, 200, 500):
        parts.append(f'<line x1="{_x(n):.1f}" x2="{_x(n):.1f}" y1="{TOP}" y2="{foot}" stroke="#eee"/>')
        parts.append(f'<text x="{_x(n):.1f}" y="{foot + 18}" text-anchor="middle">{n}</text>')
    for share in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0):
        dash = ' stroke-dasharray="4 3"' if share == 0.95 else ""
        stroke = "#999" if share == 0.95 else "#eee"
        y = f"{_y(share):.1f}"
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="{stroke}"{dash}/>')
        parts.append(f'<text x="{LEFT - 8}" y="{_y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    parts.append(
        f'<text x="{LEFT}" y="{TOP - 18}">Speed found, share of the best of the space (median, quartiles)</text>'
    )
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 12}" text-anchor="middle">measurements</text>')
    return parts


def _x(n: float) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * log10(n) / log10(MOST)


def _y(share: float) -> float:
    foot = HEIGHT - BOTTOM
    return foot - (foot - TOP) * (max(share, LOWEST) - LOWEST) / (1 - LOWEST)
