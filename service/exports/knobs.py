"""Which knobs mattered: how much of the spread of times each explains by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean

ENOUGH = 8  # trials below which nothing is said


@dataclass(frozen=True)
class Importance:
    """One knob's part in the times of one question."""

    knob: str
    explained: float  # share of the variance of log-seconds between its values, 0..1
    best: int  # its value in the fastest trial
    values: int  # how many were tried


def importances(measured: Sequence[tuple[Mapping[str, int], float]]) -> list[Importance]:
    """Knobs of (knobs, seconds) trials, the one that explains most first.

    One-way analysis of variance on log-seconds, corrected for what as many values explain by chance: (F - 1) kept at 0
    and above. Knobs act together, so the shares need not add up to 1; the search tries good values more often than bad
    ones, so they describe these trials and not the whole space.
    """
    times = [(knobs, log(seconds)) for knobs, seconds in measured if seconds > 0]
    if len(times) < ENOUGH:
        return []
    mean = fmean(t for _, t in times)
    total = sum((t - mean) ** 2 for _, t in times)
    best = min(times, key=lambda entry: entry[1])[0]
    found = []
    for knob in sorted({name for knobs, _ in times for name in knobs}):
        groups: dict[int | None, list[float]] = {}
        for knobs, t in times:
            groups.setdefault(knobs.get(knob), []).append(t)
        if not 1 < len(groups) < len(times) or knob not in best:
            continue
        between = sum(len(g) * (fmean(g) - mean) ** 2 for g in groups.values())
        chance = (len(groups) - 1) * (total - between) / (len(times) - len(groups))
        explained = max(0.0, between - chance) / total if total else 0.0
        found.append(Importance(knob, explained, best[knob], len(groups)))
    return sorted(found, key=lambda i: -i.explained)
