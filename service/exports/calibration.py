"""The files of a calibration: its samples and figures as JSON, and its plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import erf, log, sqrt
from pathlib import Path
from typing import Any

from service.exports.drawing.plots import Axis, Dots, Line, Plot

_CORES = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 1 << 30))  # core counts drawn in one colour


def write_calibration(folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write ``calibration.json`` and the plots into ``folder``; gives back their paths.

    Args:
        facts: what ``fusetune calibrate --json`` prints. Its "points" are measured blocks: {kind, cores, ops, bytes,
            seconds, predicted, std}, where the last two come from a model that had not seen the block's workload.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "calibration.json"]
    written[0].write_text(json.dumps(facts, indent=1) + "\n")
    for name, plot in plots(facts).items():
        written.append(folder / f"{name}.svg")
        written[-1].write_text(plot.svg() + "\n")
    return written


def plots(facts: Mapping[str, Any]) -> dict[str, Plot]:
    """File name -> plot."""
    points, device = facts["points"], facts["device"]
    said = "simulated" in device["model"] or not device["simulated"]
    what = device["model"] if said else f"{device['model']} (simulated)"
    return {
        "rate": Plot(
            "Rate by operations and cores", what, Axis("operations of the block"), Axis("operations per second"),
            [
                Dots(_range(low, high), [(p["ops"], p["ops"] / p["seconds"]) for p in points
                                         if low <= p["cores"] <= high and p["ops"]])
                for low, high in _CORES if any(low <= p["cores"] <= high for p in points)
            ],
        ),
        "cores": Plot(
            "Rate by cores", what, Axis("cores", log=False), Axis("operations per second"),
            [
                Dots(kind, [(p["cores"], p["ops"] / p["seconds"]) for p in own if p["ops"]])
                for kind, own in _kinds(points)
            ],
        ),
        "roofline": Plot(
            "Roofline", what, Axis("operations per byte"), Axis("operations per second"),
            [
                Dots(kind, [(p["ops"] / p["bytes"], p["ops"] / p["seconds"]) for p in own if p["ops"]])
                for kind, own in _kinds(points)
            ],
            [_roof(facts["machine"], points)],
        ),
        "predicted": Plot(
            "Predicted, not having seen the workload", what,
            Axis("measured microseconds"), Axis("predicted microseconds"),
            [Dots(kind, [(1e6 * p["seconds"], 1e6 * p["predicted"]) for p in own]) for kind, own in _kinds(points)],
            [Line("equal", _diagonal(points, 1.0)), Line("10% off", _diagonal(points, 1.1), dashed=True),
             Line("", _diagonal(points, 1 / 1.1), dashed=True)],
        ),
        "uncertainty": Plot(
            "Errors within so many standard deviations", what, Axis("standard deviations", log=False),
            Axis("share of the errors", log=False), [],
            [Line("measured", _coverage(points)), Line("normal", _normal(), dashed=True)],
        ),
    }  # fmt: skip


def _kinds(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return [(kind, [p for p in points if p["kind"] == kind]) for kind in sorted({p["kind"] for p in points})]


def _range(low: int, high: int) -> str:
    if low == high:
        return f"{low} core" if low == 1 else f"{low} cores"
    return f"{low} cores and more" if high >= 1 << 30 else f"{low} to {high} cores"


def _roof(machine: Mapping[str, float], points: Sequence[Mapping[str, Any]]) -> Line:
    peak, bandwidth = machine["peak_flops"], machine["bandwidth"]
    found = [p["ops"] / p["bytes"] for p in points if p["ops"]] or [1.0]
    low, high = min(found), max([*found, 2 * peak / bandwidth])
    return Line("all cores", [(low, bandwidth * low), (peak / bandwidth, peak), (high, peak)])


def _diagonal(points: Sequence[Mapping[str, Any]], factor: float) -> list[tuple[float, float]]:
    ends = [1e6 * p["seconds"] for p in points]
    return [(v, v * factor) for v in (min(ends), max(ends))] if ends else []


def _coverage(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    away = sorted(abs(log(p["predicted"] / p["seconds"])) / p["std"] for p in points if p["predicted"])
    steps = [k * 0.1 for k in range(31)]
    return [(s, sum(a <= s for a in away) / max(len(away), 1)) for s in steps]


def _normal() -> list[tuple[float, float]]:
    """Share of a normal distribution within k standard deviations of its mean: erf(k / sqrt 2)."""
    return [(k * 0.1, erf(k * 0.1 / sqrt(2))) for k in range(31)]
