"""The crew's first desk: every task's candidates, and the lowered model's check, beside one another."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tuner.build.verify import Verification
from tuner.errors import InternalError
from tuner.gpu.crew import Order
from tuner.gpu.explore import Seen
from tuner.gpu.lower import Task
from tuner.measure.process import Outcome
from tuner.types import Candidate

Say = Callable[[str], None]


@dataclass
class Line:
    """One task on its way, with the files by which processes know it."""

    task: Task
    stem: Path  # of the names of its files
    seen: list[Seen] = field(default_factory=list)
    refused: int = 0  # points that MetaSchedule would not have
    why: str | None = None  # there is no design space

    @property
    def path(self) -> Path:
        """The task."""
        return self.stem.with_suffix(".json")

    @property
    def default(self) -> Path:
        """Its default schedule, once it is explored."""
        return self.stem.with_suffix(".default")

    @property
    def expected(self) -> Path:
        """What it computes for its inputs, once a candidate was checked."""
        return self.stem.with_suffix(".npy")

    def output(self) -> np.ndarray | None:
        """What the task computes for the inputs of its bundle; None where no CPU code of it works."""
        return np.load(self.expected, allow_pickle=False) if self.expected.exists() else None


class Exploring:
    """Desk. ``end``, asked when the first process is there: monotonic seconds by which drawing points is over.

    Defaults come anyway.

    ``points`` per task, 0 for defaults alone; ``seed`` of the draws; ``known``: candidates to look at again, by task.
    """

    def __init__(
        self, lines: Sequence[Line], verify: Order, known: dict[str, list[Candidate]], *, points: int,
        seed: Sequence[int], end: Callable[[], float], size: int, stopped: Callable[[], bool], say: Say,
    ) -> None:  # fmt: skip
        self._lines = {str(line.path): line for line in lines}
        self._points, self._seed, self._size = points, list(seed), size
        self._ask_end, self._end = end, 0.0
        self._stopped, self._say = stopped, say
        explore = [
            Order({"order": "explore", "task": path, "spaces": True, "points": points,
                   "random": [*self._seed, number], "default": str(line.default),
                   "known": [candidate.to_json() for candidate in known.get(line.task.hash, ())]})
            for number, (path, line) in enumerate(self._lines.items())
        ]  # fmt: skip
        explore.sort(key=lambda order: (bool(self._line(order).task.parts), -self._line(order).task.weight))
        self._waiting = deque([verify, *explore])
        self._coming = len(explore)  # tasks whose candidates are not here yet
        self._unexplored = len(explore)
        self.verification: Verification | None = None

    @property
    def explored(self) -> bool:
        """Whether every task has its candidates; the check of the model may take longer."""
        return self._coming == 0

    def next(self) -> Order | None:
        if not self._waiting:
            return None
        order = self._waiting.popleft()
        if order.request["order"] != "explore":
            return order
        now = time.monotonic()
        self._end = self._end or self._ask_end()
        share = (self._end - now) * self._size / max(1, self._unexplored)
        self._unexplored -= 1
        points = 0 if self._stopped() else order.request["points"]
        until = min(self._end, now + share)
        self._say(f"exploring {self._line(order).task.name}")
        return replace(order, request={**order.request, "points": points, "until": until})

    def take(self, order: Order, outcome: Outcome) -> None:
        kind, answer = order.request["order"], outcome.answer
        if kind == "verify":
            if answer is None:
                raise InternalError(f"The lowered model could not be checked: {_why(outcome)}", code="not-verified")
            self.verification = Verification(**answer)
        elif kind == "explore":
            self._explored(order, outcome)

    def _explored(self, order: Order, outcome: Outcome) -> None:
        line, answer = self._line(order), outcome.answer
        if answer is not None:
            line.seen = [Seen.from_json(each) for each in answer["seen"]]
            line.refused, line.why = answer["refused"], line.why or answer["why"]
            self._coming -= 1
        elif line.task.parts:  # it stays apart, then
            line.why = _why(outcome)
            self._coming -= 1
        elif order.request["spaces"]:  # MetaSchedule ended the process, perhaps: the default needs none of it
            line.why = _why(outcome)
            self._unexplored += 1
            self._waiting.appendleft(replace(order, request={**order.request, "spaces": False}))
        else:
            raise InternalError(f"{line.task.name} has no schedule: {_why(outcome)}", code="build-failed")

    def _line(self, order: Order) -> Line:
        return self._lines[order.request["task"]]


def _why(outcome: Outcome) -> str:
    return outcome.failure.message if outcome.failure is not None else "There was no answer."
