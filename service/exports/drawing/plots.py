"""Scatter plots with logarithmic or linear axes as SVG text with its own style: files to be looked at alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, isfinite, log10

from service.exports.drawing.scales import label, ticks
from service.exports.drawing.svg import tag, title, words

WIDTH, HEIGHT = 640.0, 440.0
LEFT, RIGHT, TOP, BOTTOM = 72.0, 150.0, 66.0, 48.0  # room for numbers, names, the title, the axis
COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#efb118", "#a463f2", "#38b2c9", "#9c6b4e", "#97bbf5", "#9498a0")
_STYLE = (
    "svg{font:12px system-ui,sans-serif;background:#fff}text{fill:#333}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#e4e4e4}.axis{stroke:#888}.line{fill:none;stroke:#333;stroke-width:1.4}.dash{stroke-dasharray:5 4}"
)


@dataclass(frozen=True)
class Axis:
    """What an axis shows; values that a logarithmic one cannot show are left out."""

    name: str  # with its unit
    log: bool = True


@dataclass(frozen=True)
class Dots:
    """Points of one kind. ``name`` appears beside the plot."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line to compare with. ``name`` appears at its end."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """One picture: dots of several kinds and lines, over two axes that span them all."""

    title: str
    subtitle: str
    x: Axis
    y: Axis
    dots: Sequence[Dots] = ()
    lines: Sequence[Line] = field(default=())

    def svg(self) -> str:
        """The picture as the text of an SVG file."""
        shown = [
            p
            for points in ([d.points for d in self.dots] + [x.points for x in self.lines])
            for p in points
            if self._shows(p)
        ]
        x = _Scale(self.x, [p[0] for p in shown], LEFT, WIDTH - RIGHT)
        y = _Scale(self.y, [p[1] for p in shown], HEIGHT - BOTTOM, TOP)
        parts = [title(self.title), tag("style", _STYLE), words(self.title, LEFT, 20, "title"),
                 words(self.subtitle, LEFT, 37, "subtitle")]  # fmt: skip
        for value, name in x.ticks:
            parts.append(tag("line", x1=x.at(value), x2=x.at(value), y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
            parts.append(words(name, x.at(value), HEIGHT - BOTTOM + 16, "tick", anchor="middle"))
        for value, name in y.ticks:
            parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y.at(value), y2=y.at(value), class_="grid"))
            parts.append(words(name, LEFT - 6, y.at(value) + 4, "tick", anchor="end"))
        parts.append(tag("path", d=f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}", fill="none", class_="axis"))
        parts.append(words(self.x.name, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "name", anchor="middle"))
        parts.append(words(self.y.name, LEFT - 60, TOP - 10, "name"))
        for number, dots in enumerate(self.dots):
            colour = COLOURS[number % len(COLOURS)]
            drawn = [
                tag("circle", cx=x.at(a), cy=y.at(b), r=2.6)
                for a, b in dots.points if self._shows((a, b))
            ]  # fmt: skip
            parts.append(tag("g", title(dots.name), *drawn, fill=colour, fill_opacity=0.7))
            height = TOP + 14 + 17 * number
            parts.append(tag("circle", cx=WIDTH - RIGHT + 16, cy=height - 4, r=4, fill=colour))
            parts.append(words(dots.name, WIDTH - RIGHT + 26, height, "key"))
        for number, line in enumerate(self.lines):
            points = [p for p in line.points if self._shows(p)]
            if not points:
                continue
            path = "M" + "L".join(f"{x.at(a):.1f} {y.at(b):.1f}" for a, b in points)
            parts.append(tag("path", d=path, class_="line dash" if line.dashed else "line"))
            if not line.name:
                continue
            height = TOP + 24 + 17 * (len(self.dots) + number)
            style = "line dash" if line.dashed else "line"
            parts.append(tag("path", d=f"M{WIDTH - RIGHT + 8} {height - 4}h16", class_=style))
            parts.append(words(line.name, WIDTH - RIGHT + 28, height, "key"))
        return tag("svg", *parts, xmlns="http://www.w3.org/2000/svg", role="img", aria_label=self.title,
                   viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}", width=int(WIDTH), height=int(HEIGHT))  # fmt: skip

    def _shows(self, point: tuple[float, float]) -> bool:
        return all(
            isfinite(v) and (v > 0 or not axis.log) for v, axis in zip(point, (self.x, self.y), strict=True)
        )  # fmt: skip


class _Scale:
    """From values to places between ``start`` and ``end``, rounded out to whole ticks."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self._log, self._start, self._end = axis.log, start, end
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        if axis.log:
            self._low, self._high = float(floor(log10(low))), float(ceil(log10(high)))
            self._high = max(self._high, self._low + 1)
            step = max(1, round((self._high - self._low) / 8))
            powers = range(int(self._low), int(self._high) + 1, step)
            self.ticks = [(10.0**power, _power(power)) for power in powers]
            if self._high - self._low <= 2:  # too few powers to read values from
                self.ticks = [
                    (n * 10.0**power, f"{n * 10.0**power:g}")
                    for power in powers for n in (1, 2, 5) if power + log10(n) <= self._high
                ]  # fmt: skip
        else:
            low, high = min(low, 0.0), max(high, 0.0)
            marks = ticks(low, high if high > low else low + 1.0)
            while marks[-1] < high:  # the last tick lies below what is shown
                marks.append(marks[-1] + marks[1] - marks[0])
            self._low, self._high = marks[0], marks[-1]
            self.ticks = [(value, label(value)) for value in marks]

    def at(self, value: float) -> float:
        place = log10(value) if self._log else value
        return round(self._start + (place - self._low) / (self._high - self._low) * (self._end - self._start), 1)


def _power(power: int) -> str:
    """A power of ten in engineers' words: 1e6 -> 1M."""
    for exponent, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if exponent <= power < exponent + 3:
            return f"{10 ** (power - exponent)}{unit}"
    return f"{10.0**power:g}"
