"""Numbers as people read them: a unit, and as many digits as mean something. Pure functions; None is a dash.

``static/js/format.js`` follows the same rules, so that a figure does not change its look when live data replaces it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

NONE = "–"


def significant(value: float, digits: int = 3) -> str:
    """The number with so many significant digits and no exponent: 17.9, 0.842, 1520."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "∞"
    rounded = float(f"{value:.{digits - 1}e}")  # first round, then count: 9.996 has one digit before the point no more
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{places}f}"


def latency(seconds: float | None) -> str:
    """Seconds as s, ms or µs with three digits: 17.9 ms."""
    if seconds is None:
        return NONE
    if not math.isfinite(seconds):
        return "∞"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if float(f"{seconds * factor:.2e}") >= 1:
            return f"{significant(seconds * factor)} {unit}"
    return f"{significant(seconds * 1e6)} µs" if seconds > 0 else "0 s"


def ms(milliseconds: float | None) -> str:
    """Milliseconds as ``latency`` writes them."""
    return NONE if milliseconds is None else latency(milliseconds / 1e3)


def speedup(ratio: float | None) -> str:
    """A quotient of two latencies: 1.42×, 8.6×, 120×."""
    if ratio is None:
        return NONE
    return f"{ratio:.2f}×" if ratio < 3 else f"{ratio:.1f}×" if ratio < 99.95 else f"{ratio:,.0f}×"


def duration(seconds: float | None) -> str:
    """How long something took or will take: 0.4 s, 12 s, 4 min 12 s, 3 h 20 min, 2 d 5 h."""
    if seconds is None:
        return NONE
    if seconds < 0.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for large, name, small, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name} {rest} {part}" if rest else f"{whole // large} {name}"
    return f"{whole} s"


def count(number: float | None) -> str:
    """A whole number with its thousands apart: 12,345."""
    return NONE if number is None else f"{round(number):,}"


def size(number: float | None) -> str:
    """Bytes in binary units: 97.5 MiB."""
    if number is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 999.5:
            return f"{number:.0f} B" if unit == "B" else f"{significant(number)} {unit}"
        number /= 1024
    return f"{significant(number)} TiB"


def percent(share: float | None) -> str:
    """A share between 0 and 1: 12.3%, 0.4%, 100%."""
    if share is None:
        return NONE
    value = share * 100
    return f"{value:.0f}%" if value >= 99.95 or value == 0 else f"{value:.1f}%"


def gflops(number: float | None) -> str:
    """A rate given in 10^9 operations per second: 63.2 GFLOP/s, 1.21 TFLOP/s."""
    if number is None:
        return NONE
    return f"{significant(number / 1e3)} TFLOP/s" if number >= 999.5 else f"{significant(number)} GFLOP/s"


def bandwidth(number: float | None) -> str:
    """Bytes per second in decimal units, as memory is sold: 21.3 GB/s."""
    return NONE if number is None else f"{significant(number / 1e9)} GB/s"


def macs(number: float | None) -> str:
    """Multiply-accumulates of one run: 4.1 GMACs, 820 MMACs."""
    if number is None:
        return NONE
    for factor, unit in ((1e9, "GMACs"), (1e6, "MMACs"), (1e3, "kMACs")):
        if number >= factor * 0.9995:
            return f"{significant(number / factor)} {unit}"
    return f"{number:.0f} MACs"


def error(number: float | None) -> str:
    """A relative error, of which only the magnitude matters: 2e-6."""
    if number is None:
        return NONE
    if number == 0:
        return "0"
    if not math.isfinite(number):
        return "∞"
    mantissa, exponent = f"{number:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def short(text: str | None) -> str:
    """The first twelve characters of a hash."""
    return NONE if text is None else text[:12]


def shape(dims: Sequence[object] | None) -> str:
    """A tensor's shape: 1×3×224×224, with ? for what is open."""
    if dims is None:
        return NONE
    return "×".join("?" if dim is None else str(dim) for dim in dims) or "scalar"


def step(value: float | None, maximum: float | None) -> int:
    """Which of the eight steps (0..7) of a colour scale stands for the value; the maximum has the strongest."""
    if not value or not maximum or value <= 0 or maximum <= 0:
        return 0
    return max(0, min(7, round(7 * value / maximum)))


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago, coarsely: just now, 12 min ago, 3 h ago, 5 d ago; further back the day, 2026-03-14."""
    if moment is None:
        return NONE
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 0:
        return "just now"
    for limit, factor, unit in ((60, 0, ""), (3600, 60, "min"), (86400, 3600, "h"), (14 * 86400, 86400, "d")):
        if seconds < limit:
            return "just now" if not factor else f"{int(seconds // factor)} {unit} ago"
    return moment.strftime("%Y-%m-%d")


def moment(value: datetime | None) -> str:
    """A moment in full: 2026-11-21 11:33:36 UTC."""
    return NONE if value is None else value.strftime("%Y-%m-%d %H:%M:%S UTC")
