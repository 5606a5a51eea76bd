"""How quiet a machine was: what became of its processors' time over a span. Linux only; else nothing is known."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reading:
    """Counters of all processors at one moment."""

    total: float = 0.0  # seconds, summed over processors
    steal: float = 0.0  # of them, those the hypervisor gave to other guests
    busy: float = 0.0  # and those spent on work

    @staticmethod
    def now() -> Reading:
        try:
            fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        except (OSError, IndexError):
            return Reading()
        user, nice, system, idle, iowait, irq, softirq, steal = (int(f) / os.sysconf("SC_CLK_TCK") for f in fields)
        busy = user + nice + system + irq + softirq
        return Reading(busy + idle + iowait + steal, steal, busy)


@dataclass(frozen=True)
class MachineState:
    """How it was from one reading to another. Shares are of all processors' time."""

    busy: float | None  # share spent on work, ours included
    steal: float | None  # share taken by other guests of the same host
    load: float | None  # average length of the run queue over the last minute

    @staticmethod
    def since(start: Reading) -> MachineState:
        end = Reading.now()
        span = end.total - start.total
        try:
            load = round(os.getloadavg()[0], 2)
        except OSError:
            load = None
        if span <= 0:
            return MachineState(None, None, load)
        return MachineState(round((end.busy - start.busy) / span, 4), round((end.steal - start.steal) / span, 4), load)
