"""What a running job tells its watchers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Stage(StrEnum):
    """The steps of a job, in order."""

    IMPORT = "import"  # reading and cleaning the model
    PLAN = "plan"  # fusing layers into blocks
    SEARCH = "search"  # measuring kernels
    BUILD = "build"  # assembling whole models
    COMPARE = "compare"  # timing whole models against each other and ONNX Runtime
    EXPORT = "export"  # writing the artifact


@dataclass(frozen=True)
class Progress:
    """One state of a running job; seconds throughout."""

    stage: Stage
    message: str  # in plain words
    trials: int = 0  # measured in this job, failures included
    failed: int = 0
    reused: int = 0  # taken from stored records
    best_latency: float | None = None  # of the whole model: sum of the best kernels, or measured once it is built
    onnxruntime: float | None = None  # latency of the peer, once it was timed
    unoptimised: float | None = None  # latency of the unoptimised plan, once it was timed
    elapsed: float = 0.0
    done: float = 0.0  # share of the job, 0..1, by the budget

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Curve:
    """Best latency over time, thinned to at most ``limit`` points of (elapsed seconds, trials, best seconds)."""

    def __init__(self, points: Iterable[Sequence[float]] = (), limit: int = 64) -> None:
        self.points: list[list[float]] = [list(p) for p in points]
        self._limit = limit

    def add(self, elapsed: float, trials: int, best: float | None) -> bool:
        """Note the best so far; True if it was an improvement worth a point."""
        if best is None or (self.points and best == self.points[-1][2]):
            return False
        self.points.append([round(elapsed, 2), trials, best])
        if len(self.points) > self._limit:
            # The point whose absence is seen least: neither an end nor a visible step.
            steps = [abs(a[2] - b[2]) for a, b in zip(self.points, self.points[1:], strict=False)]
            del self.points[min(range(1, len(steps)), key=steps.__getitem__)]
        return True


Watch = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """A watcher that does not care."""
