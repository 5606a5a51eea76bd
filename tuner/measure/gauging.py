"""A process that tells how contended our cores are, for contests: their contestants may be anything.

Request: ``{"patience": SECONDS}``, how long to wait for calm cores.
Answer: ``{"contention": READING, "waited": SECONDS}``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tuner.measure.contention import Gauge, build_burst, kernel_burst
from tuner.measure.device import detect_cpu
from tuner.measure.timing import wait

WARM = 0.004  # seconds of bursts that count for nothing: cores that rested are slow at first
READS = 7  # of which the median counts


def handler(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    if config["affinity"]:
        os.sched_setaffinity(0, config["affinity"])
    device = replace(detect_cpu(), cores=config["threads"])
    with tempfile.TemporaryDirectory(dir=config["folder"]) as folder:
        library = Path(folder) / "burst.so"
        build_burst(device, library)
        burst = kernel_burst(device, library)
    if burst is None:
        raise OSError("The burst was built, but is not there.")
    steady = _Steady(Gauge(burst))

    def handle(request: Mapping[str, Any]) -> dict[str, Any]:
        end = time.perf_counter() + WARM
        while time.perf_counter() < end:
            steady.read()
        contention, waited = wait(steady, request["patience"])
        return {"contention": contention, "waited": waited}

    return handle


class _Steady:
    """The median of several readings."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge

    def read(self) -> float:
        return median(self._gauge.read() for _ in range(READS))
