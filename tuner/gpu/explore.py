"""The candidates of one task: the default schedule, and points of MetaSchedule's design spaces drawn within limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from tuner.designs.space import DesignSpace, design_spaces
from tuner.errors import CandidateError
from tuner.gpu.counts import counts_of
from tuner.gpu.cuda import with_defaults
from tuner.gpu.lower import Task
from tuner.gpu.ranking import Looked
from tuner.gpu.spec import GpuSpec
from tuner.types import Candidate

DEFAULT, DESIGN = "dlight", "metaschedule"  # templates
SPACE = "space"  # the knob that names the design space
VERSION = 1


@dataclass(frozen=True)
class Scheduled:
    """A candidate as it came out: what it is by value, and the scheduled function."""

    candidate: Candidate
    function: Any  # tvm.tirx.PrimFunc
    looked: Looked

    @property
    def key(self) -> str:
        return self.candidate.key


class Explorer:
    """Makes candidates of one task. Errors of single points are counted, not raised."""

    def __init__(self, task: Task, target: Any, spec: GpuSpec, rules: str = "cuda") -> None:
        self.task = task
        self._target, self._spec, self._rules = target, spec, rules
        self.refused = 0  # points that MetaSchedule would not have
        self.spaces: tuple[DesignSpace, ...] = ()
        self.why: str | None = None  # there is no design space, and the default alone
        try:
            self.spaces = design_spaces(task.module, target, rules)
        except (tvm.error.InternalError, ValueError, NotImplementedError) as error:
            text = str(error).strip()
            self.why = text.splitlines()[-1][:200] if text else type(error).__name__

    def default(self) -> Scheduled:
        """dlight's schedule."""
        function = with_defaults(self.task.module, self._target)["main"]
        return self._scheduled(DEFAULT, {}, function)

    def make(self, knobs: Mapping[str, int]) -> Scheduled:
        """The point that these knobs, "space" among them, name. Raises CandidateError (``rejected``)."""
        number = knobs.get(SPACE, 0)
        if number not in range(len(self.spaces)):
            raise CandidateError(f"The task has no design space {number}.", code="rejected")
        space = self.spaces[number]
        inner = {name: value for name, value in knobs.items() if name != SPACE}
        if inner.keys() != space.parameters.keys() or not all(
            0 <= value < len(space.parameters[name].values) for name, value in inner.items()
        ):
            raise CandidateError("The knobs are none of this design space.", code="rejected")
        design = space.apply(inner)
        return self._scheduled(DESIGN, {SPACE: number, **design.knobs}, design.schedule.mod["main"])

    def draw(self, count: int, random: np.random.Generator, until: float = float("inf")) -> Iterator[Scheduled]:
        """About ``count`` different points, equally many of each space, until ``time.monotonic()`` is ``until``."""
        seen = set()
        share = -(-count // max(1, len(self.spaces)))
        drawn = [space.draw(share, random) for space in self.spaces]
        for turn in range(share):
            for number, points in enumerate(drawn):
                if turn >= len(points):
                    continue
                if time.monotonic() >= until:
                    return
                try:
                    made = self.make({SPACE: number, **points[turn]})
                except CandidateError:
                    self.refused += 1
                    continue
                if made.key not in seen:
                    seen.add(made.key)
                    yield made

    def _scheduled(self, template: str, knobs: Mapping[str, int], function: Any) -> Scheduled:
        task = self.task
        candidate = Candidate(
            workload={"function": task.name}, workload_hash=task.hash, layouts={}, template=template,
            template_version=VERSION, knobs=dict(knobs), cores=self._spec.sms,
        )  # fmt: skip
        looked = Looked.at(counts_of(function), self._spec, task.compulsory)
        return Scheduled(candidate, function, looked)


def ranked(candidates: Sequence[Scheduled], seconds: np.ndarray) -> list[tuple[float, Scheduled]]:
    """(seconds, candidate), the fastest first; equals in the order given."""
    order = np.argsort(seconds, kind="stable")
    return [(float(seconds[k]), candidates[k]) for k in order]
