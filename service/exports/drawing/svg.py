"""The few SVG elements that drawings are made of. Texts and attribute values are escaped here, and only here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

CHAR = 0.56  # mean width of a character, as a share of the font size


def tag(name: str, *children: str, **attributes: object) -> str:
    """One element. ``children`` are finished markup; attributes that are None are left out; ``_`` stands for ``-``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{''.join(children)}</{name}>" if children else f"<{name}{given}/>"


def words(text: str, x: float, y: float, class_: str, anchor: str | None = None, width: float | None = None) -> str:
    """A line of text at a baseline; cut with an ellipsis where ``width`` is given as a number of characters."""
    shown = cut(text, int(width)) if width else text
    return tag("text", escape(shown), x=x, y=y, class_=class_, text_anchor=anchor)


def title(text: str) -> str:
    """What a browser shows when the pointer rests on the element around it, and what screen readers say."""
    return tag("title", escape(text))


def cut(text: str, length: int) -> str:
    """``text`` in at most ``length`` characters."""
    return text if len(text) <= length else text[: max(1, length - 1)] + "…"


def rounded(points: Sequence[tuple[float, float]], radius: float) -> str:
    """Path data of a polyline with rounded corners."""
    parts = [f"M{_number(points[0][0])} {_number(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(corner, before, radius), _towards(corner, after, radius)
        parts.append(f"L{_pair(start)}Q{_pair(corner)} {_pair(end)}")
    parts.append(f"L{_pair(points[-1])}")
    return "".join(parts)


def curve(points: Sequence[tuple[float, float]]) -> str:
    """Path data through ``points``, vertical at each of them."""
    parts = [f"M{_pair(points[0])}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(x0 - x1) < 0.5:
            parts.append(f"L{_pair((x1, y1))}")
        else:
            middle = (y0 + y1) / 2
            parts.append(f"C{_pair((x0, middle))} {_pair((x1, middle))} {_pair((x1, y1))}")
    return "".join(parts)


def _towards(corner: tuple[float, float], other: tuple[float, float], radius: float) -> tuple[float, float]:
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = (dx * dx + dy * dy) ** 0.5 or 1.0
    step = min(radius, length / 2) / length
    return corner[0] + dx * step, corner[1] + dy * step


def _pair(point: tuple[float, float]) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _value(value: object) -> str:
    return _number(value) if isinstance(value, float) else escape(str(value), quote=True)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
