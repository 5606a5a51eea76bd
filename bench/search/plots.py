"""Plots of searches as hand-written SVG: progress in small multiples, speed-ups as bars. All of simulated times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from statistics import quantiles

COLOURS = {
    "joint": "#0b6e4f", "joint-cold": "#7fb800", "dlfusion": "#f26419", "random": "#8d99ae", "tpe": "#6a4c93",
    "fixed-layers": "#c9cdd6", "fixed-greedy": "#aab1c0", "fixed-all": "#8b94a8", "cores-layers": "#bcd4e6",
    "cores-greedy": "#7fb0d6", "cores-all": "#3f7fb5", "oracle": "#222",
}  # fmt: skip
SEARCHES = ("joint", "joint-cold", "dlfusion", "random", "tpe")  # that are worth a line
WIDE, HIGH, GAP, LEFT, TOP = 250, 150, 46, 52, 92  # pixels of a panel, and around it
ACROSS = 3  # panels
LOWEST = 30.0  # percent at a panel's foot

Curve = Sequence[Sequence[float]]  # (measurements, percent)


def multiples(curves: Mapping[str, Mapping[str, Sequence[Curve]]]) -> str:
    """Percent of the oracle against measurements, a panel per model: medians over seeds, quartiles as bands."""
    rows = -(-len(curves) // ACROSS)
    width = LEFT + ACROSS * (WIDE + GAP)
    height = TOP + rows * (HIGH + GAP + 14) + 10
    parts = [
        _head(width, height, "Percent of the oracle's speed against measurements, simulated MLU100"),
        f'<text x="{LEFT}" y="20" font-size="14">Percent of the oracle\'s speed against evaluations measured '
        "on a simulated MLU100</text>",
        f'<text x="{LEFT}" y="58" fill="#666">median and quartiles over seeds; dashed: 99%; calibration not '
        "counted; left edge: at most one measurement</text>",
        *_legend([n for n in SEARCHES if any(c.get(n) for c in curves.values())], 40),
    ]
    for number, (model, by_name) in enumerate(curves.items()):
        x = LEFT + (number % ACROSS) * (WIDE + GAP)
        y = TOP + (number // ACROSS) * (HIGH + GAP + 14)
        most = max([run[-1][0] for runs in by_name.values() for run in runs if run] + [10])
        parts += _panel(model, {n: by_name.get(n, []) for n in SEARCHES}, x, y, float(most))
    return "\n".join([*parts, "</svg>\n"])


def _panel(model: str, by_name: Mapping[str, Sequence[Curve]], left: float, top: float, most: float) -> list[str]:
    def across(n: float) -> float:
        return left + WIDE * log10(max(n, 1)) / log10(most)

    def down(share: float) -> float:
        return top + HIGH * (100 - max(share, LOWEST)) / (100 - LOWEST)

    parts = [f'<text x="{left}" y="{top - 6}" font-weight="bold">{escape(model)}</text>']
    for share in (40, 60, 80, 100):
        y = f"{down(share):.1f}"
        parts.append(f'<line x1="{left}" x2="{left + WIDE}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{left - 6}" y="{down(share) + 4:.1f}" text-anchor="end">{share}</text>')
    y = f"{down(99):.1f}"
    parts.append(f'<line x1="{left}" x2="{left + WIDE}" y1="{y}" y2="{y}" stroke="#999" stroke-dasharray="4 3"/>')
    tick = 1
    while tick <= most:
        parts.append(f'<line x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{top}" y2="{top + HIGH}" '
                     'stroke="#e4e4e4"/>')  # fmt: skip
        parts.append(f'<text x="{across(tick):.1f}" y="{top + HIGH + 15}" text-anchor="middle">{tick}</text>')
        tick *= 10
    for name, runs in by_name.items():
        found = [run for run in runs if run]
        if not found:
            continue
        first, last = max(run[0][0] for run in found), max(run[-1][0] for run in found)
        ticks = sorted({n for n in (round(most ** (k / 120)) for k in range(121)) if first <= n <= last} | {last})
        bands = [_quartiles([at(run, n) for run in found]) for n in ticks]
        line = [f"{across(n):.1f},{down(m):.1f}" for n, (_, m, _) in zip(ticks, bands, strict=True)]
        low = [f"{across(n):.1f},{down(q):.1f}" for n, (q, _, _) in zip(ticks, bands, strict=True)]
        high = [f"{across(n):.1f},{down(q):.1f}" for n, (_, _, q) in zip(ticks, bands, strict=True)]
        colour = COLOURS[name]
        if len(line) == 1:  # a search that measures its own plan only
            dot_x, dot_y = line[0].split(",")
            parts.append(f'<circle cx="{dot_x}" cy="{dot_y}" r="4" fill="{colour}"/>')
        else:
            parts.append(f'<polygon points="{" ".join([*low, *high[::-1]])}" fill="{colour}" fill-opacity="0.15"/>')
            parts.append(f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return parts


def at(run: Curve, measured: float) -> float:
    """Percent of a run after so many measurements; 0 before its first plan."""
    return next((share for n, share in reversed(run) if n <= measured), 0.0)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def bars(speeds: Mapping[str, Mapping[str, float]], paper: tuple[float, float]) -> str:
    """Speed-up over no optimisation, a group of bars per model; the paper's range as a band."""
    names = [n for n in COLOURS if any(n in by for by in speeds.values())]
    thick, between = 9, 26
    wide = len(names) * thick + between
    left, top, high = 46, 98, 260
    most = max([1.0, paper[1], *(v for by in speeds.values() for v in by.values())]) * 1.05
    width, height = left + wide * len(speeds) + 20, top + high + 40

    def up(value: float) -> float:
        return top + high * (1 - value / most)

    parts = [
        _head(width, height, "Speed-up over no optimisation, simulated MLU100"),
        f'<text x="{left}" y="20" font-size="14">Speed-up over every layer alone on one core (simulated MLU100; '
        "median over seeds)</text>",
        f'<text x="{left}" y="82" fill="#666">shaded: what DLFusion reports for its five models on the real machine, '
        f"{paper[0]}x to {paper[1]}x</text>",
        *_legend(names, 40, left),
        f'<rect x="{left}" y="{up(paper[1]):.1f}" width="{width - left - 10}" '
        f'height="{up(paper[0]) - up(paper[1]):.1f}" fill="#f26419" fill-opacity="0.1"/>',
    ]
    for value in range(0, int(most) + 1, 2):
        parts.append(f'<line x1="{left}" x2="{width - 10}" y1="{up(value):.1f}" y2="{up(value):.1f}" '
                     'stroke="#e4e4e4"/>')  # fmt: skip
        parts.append(f'<text x="{left - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value}x</text>')
    for group, (model, by_name) in enumerate(speeds.items()):
        x = left + between / 2 + group * wide
        for number, name in enumerate(names):
            if name in by_name:
                speed = by_name[name]
                parts.append(
                    f'<rect x="{x + number * thick:.1f}" y="{up(speed):.1f}" width="{thick - 1}" '
                    f'height="{top + high - up(speed):.1f}" fill="{COLOURS[name]}">'
                    f"<title>{escape(model)} {escape(name)}: {speed:.2f}x</title></rect>"
                )
        middle = x + len(names) * thick / 2
        parts.append(f'<text x="{middle:.1f}" y="{top + high + 18}" text-anchor="middle">{escape(model)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _legend(names: Sequence[str], y: float, left: float = LEFT) -> list[str]:
    parts, x, line = [], left, y
    for name in names:
        if x > left + 700:
            x, line = left, line + 18
        parts.append(f'<rect x="{x:.0f}" y="{line - 9}" width="14" height="10" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 19:.0f}" y="{line}">{escape(name)}</text>')
        x += 40 + 7 * len(name)
    return parts


def _head(width: float, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" role="img"><title>{escape(title)}</title><rect width="{width}" height="{height}" fill="#fff"/>'
    )
