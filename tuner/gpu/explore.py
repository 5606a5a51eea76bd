"""The candidates of one task: the default schedule, and points of MetaSchedule's design spaces drawn within limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm.s_tir import ScheduleError

from tuner.designs.chain import ChainSpace
from tuner.designs.context import TENSOR_CORES, TF32
from tuner.designs.epilogue import joined
from tuner.designs.shared import shared_bytes
from tuner.designs.space import DesignSpace, design_spaces
from tuner.errors import CandidateError
from tuner.gpu.chain_estimate import promising
from tuner.gpu.counts import Counts, counts_of
from tuner.gpu.cuda import with_defaults
from tuner.gpu.estimate import resident_blocks
from tuner.gpu.lower import Task
from tuner.gpu.persistent import limited
from tuner.gpu.precision import FP32, rules_of, tensor_peak
from tuner.gpu.ranking import Looked
from tuner.gpu.spec import SHARED, THREADS, GpuSpec
from tuner.types import Candidate

DEFAULT, DESIGN, CHAIN = "dlight", "metaschedule", "chain"  # templates
SPACE = "space"  # the knob that names the design space
VERSION = 1
_TENSORISING = (TENSOR_CORES, TF32)
SEEDS = 4  # of MetaSchedule, that are tried for a design space with tensor cores


@dataclass(frozen=True)
class Seen:
    """A candidate by value, and what is known of it without building it."""

    candidate: Candidate
    looked: Looked

    @property
    def key(self) -> str:
        return self.candidate.key

    def to_json(self) -> dict[str, Any]:
        return {"candidate": self.candidate.to_json(), "counts": asdict(self.looked.counts), "guess": self.looked.guess}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Seen:
        return Seen(Candidate.from_json(data["candidate"]), Looked(Counts(**data["counts"]), data["guess"]))


@dataclass(frozen=True)
class Scheduled(Seen):
    """A candidate as it came out, with the scheduled function."""

    function: Any  # tvm.tirx.PrimFunc
    plain: Any = None  # where tensor cores are used: the same schedule with the loops that they stand for


class Explorer:
    """Makes candidates of one task. Errors of single points are counted, not raised.

    ``precision``: "fp16" and "tf32" take the design spaces with tensor cores; ``rules`` names others of MetaSchedule's.
    Without ``spaces`` there is the default alone.
    """

    def __init__(
        self, task: Task, target: Any, spec: GpuSpec, rules: str | None = None, precision: str = "fp32",
        spaces: bool = True,
    ) -> None:  # fmt: skip
        self.task, self._precision = task, precision
        self._target, self._spec = target, spec
        self._rules = rules or rules_of(FP32 if task.parts else precision)
        self.refused = 0  # points that MetaSchedule would not have
        self.spaces: tuple[DesignSpace | ChainSpace, ...] = ()
        self.why: str | None = None  # there is no design space, and the default alone
        if task.parts:
            self.spaces = (ChainSpace(task.module, SHARED, THREADS),) if spaces else ()
            return
        if spaces and self._rules in _TENSORISING:
            module = joined(task.module)
            for seed in range(1, SEEDS + 1):  # where tiles need padding, some that TVM draws at first do not work
                if self._make_spaces(module, seed):
                    return
            self._rules = rules_of(FP32)  # without tensor cores, then
        if spaces:
            self._make_spaces(task.module, 1)

    def _make_spaces(self, module: Any, seed: int) -> bool:
        try:
            self.spaces, self.why = design_spaces(module, self._target, self._rules, seed), None
            return True
        except (tvm.error.InternalError, ScheduleError, ValueError, NotImplementedError) as error:
            text = str(error).strip()
            self.why = next((line for line in text.splitlines() if line.strip()), type(error).__name__)[:200]
            return False

    def default(self, cores: int | None = None) -> Scheduled:
        """dlight's schedule, on ``cores`` SMs (all). Raises CandidateError (``rejected``) where those cannot be few."""
        function = with_defaults(self.task.module, self._target)["main"]
        return self._scheduled(DEFAULT, {}, function, cores=cores)

    def make(self, knobs: Mapping[str, int], cores: int | None = None) -> Scheduled:
        """The point that these knobs, "space" among them, name, on ``cores`` SMs (all).

        Raises CandidateError (``rejected``).
        """
        number = knobs.get(SPACE, 0)
        if number not in range(len(self.spaces)):
            raise CandidateError(f"The task has no design space {number}.", code="rejected")
        space = self.spaces[number]
        template = CHAIN if self.task.parts else DESIGN
        inner = self._inner(knobs)
        if inner.keys() != space.parameters.keys() or not all(
            0 <= value < len(space.parameters[name].values) for name, value in inner.items()
        ):
            raise CandidateError("The knobs are none of this design space.", code="rejected")
        design = space.apply(inner)
        function, plain = design.schedule.mod["main"], None
        if self._rules in _TENSORISING:
            plain = space.apply(inner, tensorise=False).schedule.mod["main"]
        return self._scheduled(template, {SPACE: number, **design.knobs}, function, plain, cores)

    def remake(self, candidate: Candidate) -> Scheduled:
        """What a candidate names, made again. Raises CandidateError (``rejected``)."""
        if candidate.template == DEFAULT:
            return self.default(candidate.cores)
        return self.make(candidate.knobs, candidate.cores)

    def draw(self, count: int, random: np.random.Generator, until: float = float("inf")) -> Iterator[Scheduled]:
        """About ``count`` different points, equally many of each space, until ``time.monotonic()`` is ``until``."""
        seen = set()
        share = -(-count // max(1, len(self.spaces)))
        drawn = [
            promising(space, share, random, self._spec, self.task.compulsory)
            if isinstance(space, ChainSpace) else space.draw(share, random)
            for space in self.spaces
        ]  # fmt: skip
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

    @staticmethod
    def _inner(knobs: Mapping[str, int]) -> dict[str, int]:
        return {name: value for name, value in knobs.items() if name != SPACE}

    def _scheduled(
        self, template: str, knobs: Mapping[str, int], function: Any, plain: Any = None, cores: int | None = None
    ) -> Scheduled:
        task, cores = self.task, cores or self._spec.sms
        shared = shared_bytes(function) if template == CHAIN else None  # whose copies do not tell
        counts = _counted(function if plain is None else plain, shared)
        if cores < self._spec.sms:
            blocks = cores * max(1, resident_blocks(counts, self._spec))
            function = limited(function, blocks)
            plain = None if plain is None else limited(plain, blocks)
            counts = _counted(function if plain is None else plain, shared)
        candidate = Candidate(
            workload={"function": task.name}, workload_hash=task.hash, layouts={}, template=template,
            template_version=VERSION, knobs=dict(knobs), cores=cores, precision=self._precision,
        )  # fmt: skip
        peak = tensor_peak(self._precision, self._spec)
        looked = Looked.at(counts, replace(self._spec, sms=cores), task.compulsory, peak)
        return Scheduled(candidate, looked, function, plain)


def _counted(function: Any, shared: int | None) -> Counts:
    counts = counts_of(function)
    return counts if shared is None else replace(counts, shared=shared)


def ranked(candidates: Sequence[Seen], seconds: np.ndarray) -> list[tuple[float, Seen]]:
    """(seconds, candidate), the fastest first; equals in the order given."""
    order = np.argsort(seconds, kind="stable")
    return [(float(seconds[k]), candidates[k]) for k in order]
