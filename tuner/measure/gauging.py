"""A process that tells how contended our cores are, for contests: their contestants may be anything.

Request: ``{"patience": SECONDS}``, how long to wait for calm cores.
Answer: ``{"contention": READING, "waited": SECONDS}``.

Its bursts are small matrix products on one thread per core (see ``tuner.measure.contention`` for what they tell); they
need no compiler, so that it starts at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from statistics import median
from typing import Any

import numpy as np

from tuner.measure.timing import Floor, wait

LOOK = 0.006  # seconds that a reading takes; its first half counts for nothing: cores that rested are slow at first
CALM = 1.12  # contention up to which a turn counts as undisturbed: its medians are of longer spans than kernels' bursts
SIDE, COUNT = 64, 8  # of the matrices: 48 kB in all, 4 million multiply-adds, about 50 microseconds


def handler(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    gauge = ThreadGauge(config["affinity"] or os.sched_getaffinity(0))
    for _ in range(Floor.RANK):
        gauge.read()

    def handle(request: Mapping[str, Any]) -> dict[str, Any]:
        contention, waited = wait(gauge, request["patience"], CALM)
        return {"contention": contention, "waited": waited}

    return handle


class ThreadGauge:
    """Contention of some CPUs: the slowest one's median seconds per burst over what such medians are on calm ones.

    Where cores have been contended ever since it began, that is what it takes for calm.
    """

    def __init__(self, cpus: Collection[int]) -> None:
        self._cpus = sorted(cpus)
        self._floor = Floor()

    @property
    def floor(self) -> float:
        """Seconds of a burst on calm cores, as far as is known; infinite before the first reading."""
        return self._floor.seconds

    def read(self) -> float:
        found: dict[int, list[float]] = {}
        threads = [threading.Thread(target=_burst, args=(cpu, found)) for cpu in self._cpus]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        usual = [median(times[len(times) // 2 :]) for times in found.values()]
        for seconds in usual:
            self._floor.take(seconds)
        return self._floor.contention(max(usual))


def _burst(cpu: int, found: dict[int, list[float]]) -> None:
    """Multiply for a while on one CPU; the time that counts is the thread's own, for others may have to run there."""
    os.sched_setaffinity(threading.get_native_id(), {cpu})
    many = np.full((COUNT, SIDE, SIDE), 1e-3, np.float32)
    one, out = many[0].copy(), np.empty_like(many)
    times: list[float] = []
    end = time.perf_counter() + LOOK
    while not times or time.perf_counter() < end:
        began = time.thread_time_ns()
        np.matmul(many, one, out=out)
        times.append((time.thread_time_ns() - began) * 1e-9)
    found[cpu] = times
