"""Our speed over each peer's as dots on a logarithmic axis, a line per model, with the paired 95% intervals; SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log2

from bench.peers.rows import Row, entries, own

COLOURS = {
    "onnxruntime": "#0b6e4f", "openvino": "#f26419", "torch": "#6a4c93", "torch-compile": "#3f7fb5", "tvm": "#8d99ae",
}  # fmt: skip
_LEFT, _TOP, _HIGH, _WIDE = 150, 66, 26, 620  # pixels: before the axis, above it, of a model, of the axis


def plot(rows: Mapping[str, Row]) -> str:
    """``rows``: label -> a row of the comparison; those without a ratio have an empty line."""
    ratios = {label: _ratios(row) for label, row in rows.items()}
    ends = [end for by in ratios.values() for r in by.values() for end in (r["low"], r["high"])]
    low, high = min([0.5, *ends]), max([4.0, *ends])
    height = _TOP + _HIGH * len(rows) + 30

    def across(value: float) -> float:
        return _LEFT + _WIDE * (log2(value) - log2(low)) / (log2(high) - log2(low))

    width = _LEFT + _WIDE + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12" role="img"><title>Latency of each peer over that of the tuned model</title>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<text x="10" y="20" font-size="14">Latency of each float32 peer over ours, paired medians with 95% intervals: '
        "right of 1 we are faster</text>",
        *_legend([n for n in COLOURS if any(n in by for by in ratios.values())]),
    ]
    for value in _ticks(low, high):
        x, bold = f"{across(value):.1f}", ' stroke-width="2"' if value == 1 else ""
        parts.append(f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - 28}" stroke="#ccc"{bold}/>')
        parts.append(f'<text x="{x}" y="{height - 10}" text-anchor="middle">{value:g}x</text>')
    for number, (label, by) in enumerate(ratios.items()):
        y = _TOP + _HIGH * (number + 0.5)
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for name, r in by.items():
            colour, middle, y_text = COLOURS[name], across(r["median"]), f"{y:.1f}"
            x1, x2 = f"{across(r['low']):.1f}", f"{across(r['high']):.1f}"
            parts += [
                f'<line x1="{x1}" x2="{x2}" y1="{y_text}" y2="{y_text}" stroke="{colour}" stroke-opacity="0.5" '
                'stroke-width="3"/>',
                f'<circle cx="{middle:.1f}" cy="{y_text}" r="5" fill="{colour}">'
                f"<title>{escape(label)}, {name}: {r['median']:.2f}x</title></circle>",
            ]
    return "\n".join([*parts, "</svg>\n"])


def _ratios(row: Row) -> dict[str, Row]:
    found = (row.get("ratios") or {}).get("tuned", {})
    return {r["name"]: found[r["name"]] for r in entries(row) if r["name"] in found and not own(r["name"])}


def _ticks(low: float, high: float) -> Sequence[float]:
    first = 0
    while 2.0**first > low:
        first -= 1
    return [2.0**k for k in range(first, 20) if low <= 2.0**k <= high]


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], 10
    for name in names:
        parts.append(f'<circle cx="{x + 6}" cy="40" r="5" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 17}" y="44">{escape(name)}</text>')
        x += 40 + 7 * len(name)
    return parts
