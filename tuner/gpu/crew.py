"""Processes that explore, check and compile for a GPU side by side: the house's children, one per core here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tuner.environment import child_environment
from tuner.gpu.nvcc import Compiler
from tuner.gpu.roof import GpuRoof
from tuner.measure.process import Child, Outcome, wait
from tuner.measure.worker import Worker
from tuner.types import Device

MEMORY = 3 << 29  # B that a process may need: TVM, the tensor intrinsics, a large kernel
START_SECONDS = 180.0  # for a process to import TVM on a loaded machine
MOST_SECONDS = 600.0  # that one order may take where nothing else limits it
_PERIOD = 0.25  # s between looks at limits while nothing happens


@dataclass(frozen=True)
class Order:
    """Something for one process to do: what tuner.gpu.crafting understands; given up at ``until`` (monotonic)."""

    request: Mapping[str, Any]
    until: float = float("inf")


class Desk(Protocol):
    """Hands out orders and takes what comes of them, from one thread."""

    def next(self) -> Order | None:
        """What to do next; None while there is nothing, for good once nothing is under way."""

    def take(self, order: Order, outcome: Outcome) -> None:
        """What came of an order: an answer, or a failure where it took too long or its process died."""


class Crew:
    """The processes; ``close`` ends them. ``folder`` takes what they say on stderr."""

    def __init__(
        self, device: Device, here: Device, compiler: Compiler, seed: int, precision: str, folder: Path,
        roof: GpuRoof | None = None,
    ) -> None:  # fmt: skip
        self.size = max(1, min(here.cores, here.memory // MEMORY))
        self._folder, self._here = folder, here
        self._config = {
            "device": device.to_json(), "compiler": compiler.to_json(), "seed": seed, "precision": precision,
            "roof": None if roof is None else roof.to_json(),
        }  # fmt: skip
        self._count = 0
        self._workers = [Worker("gpu", self._start) for _ in range(self.size)]
        for worker in self._workers:
            worker.ensure()  # TVM is imported while the caller reads its model

    def work(self, desk: Desk) -> None:
        """Keep every process at work until the desk has nothing more. Raises InternalError if none can start."""
        under_way: dict[Worker, Order] = {}
        while True:
            for worker in self._workers:
                worker.ensure()
                if worker in under_way or not worker.idle:
                    continue
                order = desk.next()
                if order is not None:
                    limit = min(MOST_SECONDS, max(0.0, order.until - time.monotonic()))
                    worker.send(order.request, limit)
                    under_way[worker] = order
                elif not under_way:
                    return
            wait([w.child for w in self._workers if w.busy and w.child is not None], _PERIOD)
            for worker in self._workers:
                outcome = worker.poll()
                if outcome is not None and worker in under_way:
                    desk.take(under_way.pop(worker), outcome)

    def close(self) -> None:
        for worker in self._workers:
            worker.drop()

    def _start(self, role: str) -> Child:
        self._count += 1
        threads = str(max(1, self._here.cores // self.size))
        env = child_environment() | {"TVM_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        stderr = self._folder / f"{role}-{self._count}.err"
        return Child(role, self._config, stderr, env, START_SECONDS, max(MEMORY, self._here.memory // 2))
