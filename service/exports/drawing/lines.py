"""Best latency over time as a step line with reference lines, and shares of a whole as one bar: SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.exports.drawing.scales import label, ticks
from service.exports.drawing.svg import tag, title, words

WIDTH, HEIGHT = 760.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 158.0, 14.0, 34.0  # room for numbers, names of lines, nothing, the axis
LINE = 14.0  # least distance of two names


@dataclass(frozen=True)
class Mark:
    """A horizontal line to compare with: ``kind`` unoptimised, onnxruntime or roofline; ``value`` in milliseconds."""

    kind: str
    name: str
    value: float


def steps(
    points: Sequence[tuple[float, float]],
    marks: Sequence[Mark] = (),
    *,
    end: float | None = None,
    unit: str = "seconds",
    text: str = "Best latency over time",
) -> str:
    """``points`` are (seconds or trials, milliseconds) at which the best changed; the line lasts until ``end``."""
    right = max([end or 0.0, *(x for x, _ in points)]) or 1.0
    high = max([v for _, v in points] + [m.value for m in marks], default=1.0) * 1.08 or 1.0
    x_axis, y_axis = ticks(0, right, 6), ticks(0, high, 5)

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / high

    parts = [title(text)]
    for value in y_axis:
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=down(value), y2=down(value), class_="grid"))
        parts.append(words(label(value), LEFT - 6, down(value) + 4, "tick", anchor="end"))
    for value in x_axis:
        parts.append(words(label(value), across(value), HEIGHT - BOTTOM + 16, "tick", anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=down(0), y2=down(0), class_="axis"))
    parts.append(words(unit, WIDTH - RIGHT, HEIGHT - 4, "tick", anchor="end"))
    parts.append(words("ms", LEFT - 6, TOP - 3, "tick", anchor="end"))
    names = [(mark.value, f"{mark.name} {mark.value:.3g} ms") for mark in marks]
    for mark in marks:
        y = down(mark.value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=f"mark-{mark.kind}"))
    if points:
        data = f"M{across(points[0][0]):.1f} {down(points[0][1]):.1f}"
        data += "".join(f"H{across(x):.1f}V{down(y):.1f}" for x, y in points[1:])
        parts.append(tag("path", d=f"{data}H{across(right):.1f}", class_="best"))
        parts.append(tag("circle", cx=across(right), cy=down(points[-1][1]), r=3, class_="last"))
        names.append((points[-1][1], f"best {points[-1][1]:.3g} ms"))
    parts += [
        words(name, WIDTH - RIGHT + 8, y + 4, "label") for name, y in _spread([(name, down(v)) for v, name in names])
    ]
    return tag("svg", *parts, xmlns="http://www.w3.org/2000/svg", class_="steps", role="img", aria_label=text,
               viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}")  # fmt: skip


def _spread(names: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Names at their lines' heights, moved apart where they would cover each other, within the picture."""
    ordered = sorted(names, key=lambda n: n[1])
    placed: list[tuple[str, float]] = []
    for name, y in ordered:
        placed.append((name, max(y, placed[-1][1] + LINE) if placed else y))
    limit = HEIGHT - BOTTOM
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = (placed[i][0], min(placed[i][1], limit))
        limit = placed[i][1] - LINE
    return placed


def shares(parts: Sequence[tuple[str, float]], text: str) -> str:
    """One bar cut by the shares of (name, amount); colours are the categories' in their order."""
    whole = sum(amount for _, amount in parts) or 1.0
    left, drawn = 0.0, [title(text)]
    for number, (name, amount) in enumerate(parts, 1):
        width = 100.0 * amount / whole
        drawn.append(
            tag("rect", title(f"{name} {amount / whole:.0%}"), x=f"{left:.3f}%", y=0, width=f"{width:.3f}%", height=14,
                class_=f"cat-{number}")
        )  # fmt: skip
        left += width
    return tag("svg", *drawn, xmlns="http://www.w3.org/2000/svg", class_="shares", role="img", aria_label=text,
               width="100%", height=14)  # fmt: skip
