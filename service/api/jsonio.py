"""JSON answers: strict (no NaN, no lone surrogates) and cheap: no validation of what this program itself made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response


def dumps(value: Any) -> bytes:
    """The value as compact UTF-8 JSON. Infinities, which JSON lacks, become the strings "Infinity" and "-Infinity"."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    except ValueError:
        text = json.dumps(_without_infinities(value), ensure_ascii=False, separators=(",", ":"), default=_plain)
    # Captured output may hold bytes that are no text; they were decoded to lone surrogates, which UTF-8 refuses.
    return text.encode("utf-8", "replace")


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An application/json response."""
    return Response(dumps(value), status, headers, media_type="application/json")


def moment(value: datetime | None) -> str | None:
    """A time as the API writes it: ISO 8601 in UTC with a Z."""
    return None if value is None else value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def finite(value: float | None) -> float | None:
    """The number, or None where there is none that JSON can say."""
    return value if value is not None and math.isfinite(value) else None


def milliseconds(seconds: float | None) -> float | None:
    """Seconds as milliseconds, None kept."""
    return None if seconds is None or not math.isfinite(seconds) else seconds * 1e3


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"not a JSON value: {type(value).__name__}")


def _without_infinities(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _without_infinities(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(each) for each in value]
    return value
