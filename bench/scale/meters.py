"""What each part of a driver costs: calls, seconds by the clock and of processor time; shared with the bench."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Any

PARTS = ("deciding", "trial", "progress", "lease", "device")
_FIELDS = 3  # calls, seconds, seconds of processor time


class Meters:
    """Sums of every host, in memory that is shared over a fork."""

    def __init__(self, hosts: int) -> None:
        self._values = RawArray("d", hosts * len(PARTS) * _FIELDS)

    def of(self, host: int) -> Meter:
        """The meter of one host, for its process."""
        return Meter(self._values, host * len(PARTS) * _FIELDS)

    def read(self) -> dict[str, tuple[float, float, float]]:
        """Part -> calls, seconds, seconds of processor time, of all hosts so far."""
        values, size = list(self._values), len(PARTS) * _FIELDS
        return {
            part: (sum(values[at::size]), sum(values[at + 1 :: size]), sum(values[at + 2 :: size]))
            for at, part in ((i * _FIELDS, part) for i, part in enumerate(PARTS))
        }


class Meter:
    """Adds up what the threads of one process do. Thread-safe."""

    def __init__(self, values: Any, at: int) -> None:
        self._values, self._at = values, at
        self._lock = threading.Lock()
        self._thread = threading.local()

    def add(self, part: str, calls: int, seconds: float, cpu: float) -> None:
        at = self._at + PARTS.index(part) * _FIELDS
        with self._lock:
            for offset, amount in enumerate((calls, seconds, cpu)):
                self._values[at + offset] += amount

    def wrap(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, metered."""

        def metered(*args: Any, **kwargs: Any) -> Any:
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                used = time.thread_time() - cpu
                self._thread.metered = self.metered + used
                self.add(part, 1, time.perf_counter() - began, used)

        return metered

    def wrap_all(self, part: str, owner: object, names: Sequence[str]) -> None:
        """Meter these methods of one object."""
        for name in names:
            setattr(owner, name, self.wrap(part, getattr(owner, name)))

    @property
    def metered(self) -> float:
        """Seconds of processor time of this thread's metered calls so far."""
        found: float = getattr(self._thread, "metered", 0.0)
        return found


class Rest:
    """What a thread does beside its metered calls, from one ``take`` to the next."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._cpu, self._metered = time.thread_time(), meter.metered

    def take(self, part: str, calls: int, seconds: float) -> None:
        """Put the processor time since the last one down as this part's."""
        cpu, metered = time.thread_time(), self._meter.metered
        used = (cpu - self._cpu) - (metered - self._metered)
        self._cpu, self._metered = cpu, metered
        self._meter.add(part, calls, seconds, max(0.0, used))
