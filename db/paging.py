"""Pages of a list and the cursors between them: a cursor says after which row the next page begins."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from tuner.errors import UserError

T = TypeVar("T")

_LONGEST = 2000  # characters of a cursor; ours are below 200


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items of a list, and where the next ones begin."""

    items: list[T]
    next: str | None  # cursor of the page after this one: opaque, URL-safe text; None at the end


def cut(rows: Sequence[T], limit: int, cursor: Callable[[T], str]) -> Page[T]:
    """A page of at most ``limit`` of the rows; read one row more than that, to know whether others follow."""
    items = list(rows[:limit])
    return Page(items, cursor(items[-1]) if len(rows) > limit and items else None)


def encode(order: str, *position: str | int | float | datetime | None) -> str:
    """The cursor of a row: its values in the columns that order the list, which ``order`` names."""
    values = [value.isoformat() if isinstance(value, datetime) else value for value in position]
    text = json.dumps([order, *values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(order: str, cursor: str, *types: type) -> tuple[Any, ...]:
    """What ``encode`` was given. ``types``: str, int, float, datetime; ``type(None)`` after one allows None too.

    Raises:
        UserError: it is no cursor of a list in this order (``bad-cursor``).
    """
    kinds: list[list[type]] = []
    for kind in types:
        if kind is type(None):
            kinds[-1].append(kind)
        else:
            kinds.append([kind])
    try:
        if len(cursor) > _LONGEST:
            raise ValueError("too long")
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list) or values[:1] != [order] or len(values) != len(kinds) + 1:
            raise ValueError("of another list")
        return tuple(_value(value, kind) for value, kind in zip(values[1:], kinds, strict=True))
    except (ValueError, OverflowError, RecursionError) as error:
        raise UserError(
            "The cursor does not belong to this list.",
            code="bad-cursor",
            hint="Give the 'next' of the page before, with the same order and filters, or none.",
        ) from error


def _value(value: Any, kinds: list[type]) -> Any:
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if kind is datetime and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("a moment without time zone")
        return moment.astimezone(UTC)  # which the first and the last day of the calendar may not survive
    if kind is str and isinstance(value, str):
        return value
    # Beyond 64 bits neither database can compare.
    if kind is int and type(value) is int and abs(value) < 1 << 63:
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise ValueError("of another type")
