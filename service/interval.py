"""How the interval of a speed-up is written: the same in terminals, on pages and in reports."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 6  # rounds below which there is no 95% interval but only a range (tuner.measure.contest_result.interval)


def interval_words(ends: Sequence[float], rounds: int | None) -> str:
    """From where to where, and how many rounds that rests on; None: a report of old, which does not say."""
    span = f"{ends[0]:.2f} to {ends[1]:.2f}"
    if rounds is None:
        return f"95%: {span}"
    number = f"{rounds} round{'s' if rounds != 1 else ''}"
    return f"95%: {span}, {number}" if rounds >= FEW else f"only {number}: {span}"
