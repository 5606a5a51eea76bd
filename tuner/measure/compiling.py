"""The kernels of a whole model compiled side by side, in as many child processes as this machine has cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tuner.build.objects import Objects
from tuner.measure.children import starter
from tuner.measure.options import MeasureOptions
from tuner.measure.process import Child, wait
from tuner.measure.worker import Worker
from tuner.types import Candidate, Device

LEAST = 8  # kernels for a process, which takes as long to start as a few kernels take to compile
_LIMIT = 300.0  # seconds for one kernel
_PERIOD = 0.25  # seconds between looks at limits while nothing happens


def compile_ahead(candidates: Sequence[Candidate], device: Device, objects: Objects, folder: Path) -> None:
    """Fill ``objects`` with these kernels, where there are so many to compile that processes pay.

    What fails is left out: whoever needs it compiles it again, and gets its error.

    Args:
        folder: for what the processes need while they run.
    """
    missing = deque(c for c in candidates if objects.find(c) is None)
    size = min(len(os.sched_getaffinity(0)), len(missing) // LEAST)
    if size < 2:
        return
    with _workers(size, device, objects, folder) as workers:
        under_way: set[Worker] = set()
        while missing or under_way:
            for number, worker in enumerate(workers):
                worker.ensure()
                if missing and worker.idle:
                    library = folder / f"ahead-{number}.so"
                    worker.send({"candidate": missing.popleft().to_json(), "library": str(library)}, _LIMIT)
                    under_way.add(worker)
            wait([w.child for w in workers if w.busy and w.child is not None], _PERIOD)
            for worker in workers:
                if worker.poll() is not None:
                    under_way.discard(worker)


@contextmanager
def _workers(size: int, device: Device, objects: Objects, folder: Path) -> Iterator[list[Worker]]:
    options = MeasureOptions(objects=str(objects.folder), patience=0.0)
    start, count = starter("build", device, options, folder), iter(range(1 << 30))

    def child(role: str) -> Child:
        return start(folder / f"{role}-{next(count)}.err")

    workers = [Worker("build", child) for _ in range(size)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.drop()
        for number in range(size):
            (folder / f"ahead-{number}.so").unlink(missing_ok=True)
