"""How samples are taken: warm-up, sampling, early stop, retaking what others disturbed. Standard library only."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tuner.measure.options import MeasureOptions

CALM = 1.07  # contention up to which cores count as ours alone


class Floor:
    """What work takes on calm cores: the fifth least seconds seen. The very least meet a clock that nothing keeps up.

    Args:
        known: the floor of earlier processes; infinite = none.
    """

    RANK = 5

    def __init__(self, known: float = float("inf")) -> None:
        self._least = [known] * self.RANK if known < float("inf") else []

    def take(self, seconds: float) -> None:
        """Take in what some work took."""
        self._least = sorted([*self._least, seconds])[: self.RANK]

    @property
    def seconds(self) -> float:
        """Before there are five, the most of them; infinite without any."""
        return self._least[-1] if self._least else float("inf")

    def contention(self, seconds: float) -> float:
        """How many times longer work took than on calm cores, at least 1."""
        return max(1.0, seconds / self.seconds)


class Reads(Protocol):
    """Tells how contended our cores are: 1 = not at all. See ``tuner.measure.contention.Gauge``."""

    def read(self) -> float: ...


@dataclass(frozen=True)
class Sample:
    """One timed sample: seconds per call, how often the kernel (the operating system) took a core away from us, and the
    contention just before or after, whichever was more."""

    seconds: float
    preemptions: int = 0
    contention: float = 1.0

    @property
    def disturbed(self) -> bool:
        return self.preemptions > 0 or self.contention > CALM


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

    Otherwise the load was there all the time, and the rare clean ones would be the short ones: then those that were at
    least not interrupted, by the same rule, and if they are too few, all.
    """
    for good in ([not s.disturbed for s in samples], [not s.preemptions for s in samples]):
        if sum(good) >= 3 or 2 * sum(good) >= len(samples) > 0:
            return [s.seconds for s, g in zip(samples, good, strict=True) if g]
    return [s.seconds for s in samples]


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


def take(
    call: Callable[[int], None],
    refresh: Callable[[int], None],
    calls: int,
    wanted: Wanted,
    gauge: Reads | None = None,
    patience: float = 0.0,
) -> tuple[list[Sample], float]:
    """Take samples of ``call(i)`` for i in range(calls), each after ``refresh(calls)``, which is not timed.

    With a gauge it waits for calm cores before a sample, ``patience`` seconds in all, and says of each sample how
    contended they were. Gives the samples and the seconds waited.
    """
    samples: list[Sample] = []
    waited = 0.0
    now, usage, who = time.perf_counter_ns, resource.getrusage, resource.RUSAGE_SELF
    contention = gauge.read() if gauge is not None else 1.0
    while not enough(samples, wanted):
        if gauge is not None and contention > CALM and waited < patience:
            contention, more = wait(gauge, patience - waited)
            waited += more
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
        preemptions = usage(who).ru_nivcsw - before
        earlier, contention = contention, gauge.read() if gauge is not None else 1.0
        samples.append(Sample((end - start) * 1e-9 / calls, preemptions, max(earlier, contention)))
    return samples, waited


def wait(gauge: Reads, patience: float, calm: float = CALM) -> tuple[float, float]:
    """Read until the cores are calm, for ``patience`` seconds at most; gives the last reading and the seconds waited.

    It never sleeps: a core that rested is slow at first.
    """
    began = time.perf_counter()
    while (found := gauge.read()) > calm and time.perf_counter() - began < patience:
        pass
    return found, time.perf_counter() - began
