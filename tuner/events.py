"""What a running job tells its watchers."""

from __future__ import annotations

from collections.abc import Callable
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
    elapsed: float = 0.0
    done: float = 0.0  # share of the job, 0..1, by the budget

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Watch = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """A watcher that does not care."""
