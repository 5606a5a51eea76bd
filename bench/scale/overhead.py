"""``python -m bench.scale.overhead --cluster HOST:PORT``: what the cluster's runner costs over the local one.

The same kernel is measured over and over by both, in turns; building it is copying a file. Both runners stay open, so
that nothing but candidates is paid for.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from itertools import repeat
from statistics import median
from typing import Any

from bench.scale.kernels import candidate
from bench.sections import write_section
from tuner.measure.cluster.cluster import Cluster
from tuner.measure.cluster.place import choose, offered
from tuner.measure.cluster.runner import ClusterRunner
from tuner.measure.contest_result import interval
from tuner.measure.device import detect_cpu
from tuner.measure.local import LocalRunner
from tuner.measure.machine import MachineState, Reading
from tuner.measure.options import MeasureOptions
from tuner.measure.runner import Runner
from tuner.types import Candidate

PROMISED = 20.0  # milliseconds per candidate
OPTIONS = MeasureOptions(build_function="bench.scale.kernels:build")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale.overhead", description=__doc__)
    parser.add_argument("--cluster", required=True, metavar="HOST:PORT", help="of a worker on this machine")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--candidates", type=int, default=100, help="per round and runner")
    parser.add_argument("--render", action="store_true", help="put the figures into bench/RESULTS.md")
    args = parser.parse_args(arguments)
    began = Reading.now()
    device = choose(offered(args.cluster), detect_cpu().fingerprint)
    wanted = candidate(device)
    with closing(LocalRunner(device, OPTIONS)) as here, closing(
        ClusterRunner(Cluster(args.cluster), device, OPTIONS)
    ) as there:  # fmt: skip
        seconds: dict[str, list[float]] = {"local": [], "cluster": []}
        for round in range(-1, args.rounds):  # the first one starts children and is not counted
            for name, runner in (("local", here), ("cluster", there)):
                took = per_candidate(runner, wanted, args.candidates)
                if round >= 0:
                    seconds[name].append(took)
    extra = interval([b - a for a, b in zip(seconds["local"], seconds["cluster"], strict=True)])
    found = {
        "ms_per_candidate": {name: milliseconds(median(each)) for name, each in seconds.items()},
        "overhead_ms": {"median": milliseconds(extra.median), "low": milliseconds(extra.low),
                        "high": milliseconds(extra.high)},
        "rounds": args.rounds, "candidates": args.candidates, "machine": f"{device.model}, {device.cores} cores",
        "load": MachineState.since(began).load,
    }  # fmt: skip
    print(json.dumps(found))
    if args.render:
        write_section("scale:overhead", section(found))
    return 0 if found["overhead_ms"]["median"] < PROMISED else 1


def section(found: Mapping[str, Any]) -> str:
    """The figures as a section of bench/RESULTS.md."""
    each, extra = found["ms_per_candidate"], found["overhead_ms"]
    return f"""## Measuring on a cluster

| what | promised | measured |
|:--|--:|--:|
| the cluster's runner over the local one, per measured candidate | < {PROMISED:g} ms | {extra["median"]} ms |

95% interval {extra["low"]} .. {extra["high"]} ms; a candidate takes {each["local"]} ms locally and {each["cluster"]} ms
over the cluster, of a kernel that costs next to nothing to build and a few microseconds to run. Head, worker and tuner
on one machine, over loopback; {found["rounds"]} rounds of {found["candidates"]} candidates each, in turns.
`python -m bench.scale.overhead --cluster 127.0.0.1:6380 --render`, {date.today()}, on {found["machine"]}; load average
of the machine {found["load"]}."""


def per_candidate(runner: Runner, wanted: Candidate, count: int) -> float:
    """Seconds per candidate, builds included."""
    began = time.monotonic()
    trials = list(runner.run(repeat(wanted, count)))
    failed = [t.failure for t in trials if t.failure is not None]
    if failed:
        sys.exit(f"{len(failed)} candidates failed: {failed[0].message}")
    return (time.monotonic() - began) / count


def milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 2)


if __name__ == "__main__":
    sys.exit(main())
