"""How well cost models predict what they have not seen, as the pages and report.html show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.web.filters import plural
from service.web.units import NONE, percent


@dataclass(frozen=True)
class Judged:
    """One cost model's figures; without any, ``reason`` says why."""

    name: str
    about: str  # what was held out
    figures: tuple[tuple[str, str, str], ...]  # (what, value, what it means); none where nothing can be said
    reason: str | None = None


_KNOBS = (  # (key in report.json, what, what it means)
    ("rank_correlation", "Rank correlation", "1 = predicted in the order measured"),
    ("top1", "Fastest found", "kernels whose fastest knobs came first"),
    ("top8", "Among the best 8", "kernels whose fastest knobs were"),
    ("median_error", "Typical error", "median of |predicted / measured − 1|"),
    ("within_one", "Within one deviation", "68% if its uncertainty is right"),
    ("within_two", "Within two", "95% likewise"),
)
_BLOCKS = (
    _KNOBS[0],
    ("top1", "Best rate found", "was predicted to be the best"),
    ("top8", "Best 8 rates found", "share that was predicted so"),
    *_KNOBS[3:],
)
_ABOUT = {
    "knobs": ("Knobs within a kernel", _KNOBS, "compared within a kernel"),
    "blocks": ("Blocks of a plan", _BLOCKS, "compared by rate"),
}


def of_report(report: Mapping[str, Any]) -> list[Judged]:
    """The models that a job used; none in reports that are older than these figures."""
    found = report.get("cost_model") or {}
    return [_judged(*about, found[key], found[key]["reason"]) for key, about in _ABOUT.items() if found.get(key)]


def of_calibration(quality: Mapping[str, Any] | None) -> Judged:
    """The model of blocks after a device's calibration; ``quality`` as ``Quality.to_json`` writes it."""
    if quality is None:
        return Judged("Synthetic blocks", "", (), "Too few blocks were measured to hold any out.")
    figures = {
        **quality, "top1": quality["recall"]["1"], "top8": quality["recall"]["8"],
        "within_one": quality["within_1_std"], "within_two": quality["within_2_std"],
    }  # fmt: skip
    return _judged("Synthetic blocks", _BLOCKS, "compared by rate", figures, None)


def _judged(
    name: str, names: Sequence[tuple[str, str, str]], how: str, figures: Mapping[str, Any], reason: str | None
) -> Judged:
    if reason is not None:
        return Judged(name, "", (), reason)
    about = f"{plural(figures['samples'], 'time')} of {plural(figures['workloads'], 'workload')}, {how}"
    return Judged(name, about, tuple((what, _text(key, figures[key]), meaning) for key, what, meaning in names))


def _text(key: str, value: float | None) -> str:
    if key == "rank_correlation":
        return NONE if value is None else f"{value:.2f}"
    return percent(value)
