"""Whether the cores are calm between the turns of a contest, when all contestants are stopped."""

from __future__ import annotations

import time
from collections.abc import Collection

from tuner.measure.contest_process import Contender, environment
from tuner.scratch import Scratch

WAITING = 0.25  # share of a contest's time that may go into waiting for calm cores


class TurnGauge:
    """Asks a process of its own (see ``tuner.measure.gauging``). Where there can be none, cores count as calm.

    Args:
        scratch: where the process may write.
        threads: of the contestants.
        affinity: CPUs that they are confined to; None = those of this process.
        patience: seconds that ``wait`` waits at most, and less once a quarter of the time went into that; 0 = nothing
            is gauged.
        start_limit, limit: seconds for the process to start, and to answer.
    """

    def __init__(
        self,
        scratch: Scratch,
        threads: int,
        affinity: Collection[int] | None,
        patience: float,
        start_limit: float,
        limit: float,
    ) -> None:
        self._patience, self._limit = patience, limit
        self._process: Contender | None = None
        self._ready = False
        self._began, self._waited = time.monotonic(), 0.0
        if patience > 0:
            config = {"affinity": sorted(affinity or ())}
            stderr = scratch.path / "gauge.err"
            self._process = Contender(config, stderr, environment(threads), start_limit, "gauge")

    def wait(self) -> float:
        """Wait for calm cores; gives the contention that remained."""
        saved = WAITING * (time.monotonic() - self._began) - self._waited
        return self._ask(min(self._patience, max(0.0, self._patience + saved)))

    def read(self) -> float:
        """Contention now; 1 = none."""
        return self._ask(0.0)

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._process is not None:
            self._process.dispose()
            self._process = None

    def _ask(self, patience: float) -> float:
        if self._process is None:
            return 1.0
        if not self._ready:
            self._ready = self._process.finish().answer is not None
            self._began = time.monotonic()
        answer = self._process.ask({"patience": patience}, self._limit).answer if self._ready else None
        if answer is None:
            self.close()
            return 1.0
        self._waited += answer["waited"]
        return float(answer["contention"])
