"""What templates can do with values: ``units`` under short names, and a few that make an element."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from markupsafe import Markup

from service.web import units


def ago(value: datetime | None) -> Markup | str:
    """A <time> element that says how long ago; scripts keep it true, hovering gives the moment itself."""
    if value is None:
        return units.NONE
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        value.isoformat(timespec="seconds"), units.moment(value), units.ago(value)
    )


def plural(number: float | None, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 job, 3 jobs."""
    return f"{units.count(number)} {one if number == 1 else many or one + 's'}"


FILTERS: dict[str, Callable[..., Any]] = {
    "latency": units.latency,
    "ms": units.ms,
    "speedup": units.speedup,
    "duration": units.duration,
    "count": units.count,
    "bytes": units.size,
    "percent": units.percent,
    "gflops": units.gflops,
    "bandwidth": units.bandwidth,
    "macs": units.macs,
    "error": units.error,
    "short": units.short,
    "shape": units.shape,
    "step": units.step,
    "significant": units.significant,
    "moment": units.moment,
    "ago": ago,
    "plural": plural,
}
