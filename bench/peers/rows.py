"""The rows that the benches of this package leave in a file of JSON lines, and what is read out of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.lines import append, read
from bench.results import disturbed
from tuner.errors import FusetuneError

Row = Mapping[str, Any]
Key = tuple[str, str, int, float]  # mode (an ablation's with its variant), model, threads, seconds of budget
Rows = Mapping[Key, Row]


def key_of(row: Row) -> Key:
    return row["mode"], row["model"], row["threads"], row["budget"]


def read_rows(lines: Path) -> dict[Key, dict[str, Any]]:
    """The last row of each key."""
    return {key_of(row): row for row in read(lines)}


def fill(
    lines: Path, keys: Iterable[Key], measure: Callable[[Key], Row], *, retry: bool = False,
    again: bool = False, note: Callable[[str], None] = print,
) -> bool:  # fmt: skip
    """Measure the keys that have no row yet, a row at a time; whether all have one without an error.

    A failure of ``measure`` is a row as well, with an ``error``; ``retry`` measures such keys again, and those where
    other processes used the cores in most rounds, and ``again`` all.
    """
    fine = True
    for key in keys:
        row: Row | None = read_rows(lines).get(key)
        if row is None or again or (retry and (row["error"] or disturbed(row))):
            try:
                row = measure(key)
            except (FusetuneError, OSError, ValueError) as error:
                row = {**named(key), "error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
            append(lines, row)
            note(f"{', '.join(map(str, key))}: {row['error'] or 'measured'}")
        fine = fine and not row["error"]
    return fine


def named(key: Key) -> dict[str, Any]:
    return dict(zip(("mode", "model", "threads", "budget"), key, strict=True))


def milliseconds(row: Row, name: str) -> float | None:
    """Median of a contestant."""
    return next((float(r["median_ms"]) for r in entries(row) if r["name"] == name and r["median_ms"]), None)


def failure(row: Row, name: str) -> str | None:
    """Why a contestant has no time, where it took part."""
    return next((r["failure"] for r in entries(row) if r["name"] == name), None)


def entries(row: Row) -> Sequence[Row]:
    return (row.get("bench") or {}).get("rows", ())


def best_peer(row: Row, ours: str = "tuned") -> tuple[str, Row] | None:
    """The fastest float32 peer and the ratio of its latency to ours; None where there are no two to compare."""
    ratios = (row.get("ratios") or {}).get(ours, {})
    timed = [(r["median_ms"], r["name"]) for r in entries(row) if r["name"] in ratios and not own(r["name"])]
    if not timed:
        return None
    name = min(timed)[1]
    return name, ratios[name]


def by_fastest(row: Row, ours: str = "tuned") -> float | None:
    """The fastest call of any float32 peer over our fastest; None where there are no two to compare."""
    ratios = (row.get("ratios") or {}).get(ours, {})
    least = {r["name"]: r["min_ms"] for r in entries(row) if r.get("min_ms")}
    theirs = [ms for name, ms in least.items() if name in ratios and not own(name)]
    return min(theirs) / least[ours] if theirs and ours in least else None


def own(name: str) -> bool:
    return name in ("tuned", "default")


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one."""
    return math.exp(sum(map(math.log, values)) / len(values))


def circumstances(command: str, found: Sequence[Row]) -> str:
    """Command, dates and machines of the rows; that there are none, if so."""
    if not found:
        return f"{command}. Nothing has been measured yet."
    dates, machines = sorted({row["date"] for row in found}), sorted({_machine(row) for row in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{command}, then `--render`; {when}, on {' and on '.join(machines)}."


def _machine(row: Row) -> str:
    machine = row["bench"]["machine"]
    return f"{machine['cpu']}, {machine['toolchain']}"


def line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
