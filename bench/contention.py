"""How contended this machine's cores are, over a while: ``python -m bench.contention``.

Readings of the gauge between the turns of contests (``tuner.measure.gauging``), one after the other while nothing else
of ours runs: 1 is the fastest burst of this run. It sees arithmetic that is slowed, not by whom.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

import numpy as np

from tuner.measure.gauging import CALM, ThreadGauge

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.contention", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args(arguments)
    cpus = sorted(os.sched_getaffinity(0))
    gauge = ThreadGauge(cpus)
    end = time.monotonic() + options.seconds
    found: list[tuple[float, float]] = []  # reading, and the floor that it was over
    while not found or time.monotonic() < end:
        found.append((gauge.read(), gauge.floor))
    print(summary([max(1.0, reading * floor / gauge.floor) for reading, floor in found], len(cpus)))
    return 0


def summary(readings: Sequence[float], cpus: int) -> str:
    """What is printed; readings are over one floor."""
    calm = np.asarray(readings) <= CALM
    changes = int(np.sum(calm[1:] != calm[:-1]))
    levels = ", ".join(f"{share:.0%} {np.quantile(readings, share):.2f}" for share in SHARES)
    return (
        f"{len(readings)} readings of {cpus} cores: {calm.mean():.0%} calm (up to {CALM}), {changes} changes between "
        f"calm and contended; quantiles: {levels}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
