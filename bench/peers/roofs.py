"""The machine's roof, read often: one reading of a busy moment would put a row's percentages wrong."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.lines import append, read
from tuner.measure.roof import Roof, measure_roof
from tuner.types import Device

FEWEST = 4  # readings that a row goes by


def roof_of(device: Device, lines: Path) -> Roof:
    """Read it once more, write that into ``lines``, and tell from all readings there of this device.

    No reading of the peak can be too high, so the highest counts; what other users of the memory leave goes up and
    down, so of bandwidths the median does. A reading takes about five seconds; with fewer than FEWEST there, more are
    taken.
    """
    whose = {"fingerprint": device.fingerprint, "cores": device.cores}
    missing = max(1, FEWEST - len(_of(whose, lines)))
    for _ in range(missing):
        append(lines, {**whose, **asdict(measure_roof(device))})
    found = _of(whose, lines)
    return Roof(max(r["flops"] for r in found), median(r["bandwidth"] for r in found))


def _of(whose: dict[str, Any], lines: Path) -> list[dict[str, Any]]:
    return [line for line in read(lines) if whose.items() <= line.items()]
