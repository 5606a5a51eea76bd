"""How samples are taken: warm-up, sampling, early stop, retaking what foreign load disturbed. Standard library only."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.measure.options import MeasureOptions


@dataclass(frozen=True)
class Sample:
    """One timed sample: seconds per call, and how often the kernel (the operating system) took a core away from us."""

    seconds: float
    preemptions: int = 0

    @property
    def disturbed(self) -> bool:
        return self.preemptions > 0


@dataclass(frozen=True)
class Wanted:
    """How many samples make a trial."""

    minimum: int
    maximum: int
    seconds: float  # of measuring after which the minimum is enough
    retakes: int  # how many disturbed samples may be taken again
    early: int = 0  # after so many clean samples a hopeless candidate is stopped (0 = never) ...
    early_limit: float = float("inf")  # ... if its fastest sample took longer than this, in seconds

    @staticmethod
    def of(options: MeasureOptions, *, final: bool = False, best_seconds: float | None = None) -> Wanted:
        factor = options.final_factor if final else 1
        stop = best_seconds is not None and not final
        return Wanted(
            options.min_samples * factor,
            options.max_samples * factor,
            options.sample_seconds * factor,
            round(options.min_samples * factor * options.retake_factor),
            options.early_samples if stop else 0,
            options.early_ratio * best_seconds if stop and best_seconds is not None else float("inf"),
        )


def enough(samples: Sequence[Sample], wanted: Wanted) -> bool:
    """Whether no further sample is needed. Disturbed ones count once the retakes are used up."""
    disturbed = sum(s.disturbed for s in samples)
    good = len(samples) - min(disturbed, wanted.retakes)
    spent = sum(s.seconds for s in samples)
    if wanted.early and good >= wanted.early and min(s.seconds for s in samples) > wanted.early_limit:
        return True
    return good >= wanted.maximum or (good >= wanted.minimum and spent >= wanted.seconds)


def kept(samples: Sequence[Sample]) -> list[float]:
    """Seconds of the samples that count, in the order taken: the clean ones, if they are at least three or a half.

    Otherwise the load was there all the time, and the rare clean ones would be the short ones: keep all.
    """
    clean = [s.seconds for s in samples if not s.disturbed]
    return clean if len(clean) >= 3 or 2 * len(clean) >= len(samples) > 0 else [s.seconds for s in samples]


def calls_per_sample(seconds: float, group_seconds: float) -> int:
    """How many calls to time at once, so that reading the clock does not matter."""
    return 1 if seconds >= group_seconds else min(16, -(-int(group_seconds * 1e9) // max(1, int(seconds * 1e9))))


@dataclass(frozen=True)
class Load:
    """Processor time over a span, in seconds: by everybody on our cores, by us, and the span itself."""

    busy: float
    own: float
    wall: float

    def foreign(self, cores: int) -> float:
        """Share of our cores that others used. The kernel counts in ticks of 10 ms: short spans are rounded down."""
        spare = 2 / os.sysconf("SC_CLK_TCK") * cores
        return max(0.0, self.busy - self.own - spare) / max(self.wall * cores, 1e-9)


class LoadMeter:
    """Measures the Load from its construction on."""

    def __init__(self) -> None:
        self._cpus = os.sched_getaffinity(0)
        self._busy, self._own, self._wall = self._now()

    def read(self) -> Load:
        busy, own, wall = self._now()
        return Load(busy - self._busy, own - self._own, wall - self._wall)

    def _now(self) -> tuple[float, float, float]:
        ticks = 0
        with open("/proc/stat") as file:
            for line in file:
                name, *counts = line.split()
                if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in self._cpus:
                    user, nice, system, _idle, _wait, irq, softirq, *steal = map(int, counts)
                    ticks += user + nice + system + irq + softirq + sum(steal[:1])
        return ticks / os.sysconf("SC_CLK_TCK"), time.process_time(), time.perf_counter()


def take(call: Callable[[int], None], refresh: Callable[[int], None], calls: int, wanted: Wanted) -> list[Sample]:
    """Take samples of ``call(i)`` for i in range(calls), each after ``refresh(calls)``, which is not timed."""
    samples: list[Sample] = []
    now, usage, who = time.perf_counter_ns, resource.getrusage, resource.RUSAGE_SELF
    while not enough(samples, wanted):
        refresh(calls)
        before = usage(who).ru_nivcsw
        if calls == 1:
            start = now()
            call(0)
            end = now()
        else:
            start = now()
            for i in range(calls):
                call(i)
            end = now()
        samples.append(Sample((end - start) * 1e-9 / calls, usage(who).ru_nivcsw - before))
    return samples
