"""A design space: one trace of MetaSchedule's, its decisions by name, and the schedules that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import IntDistribution
from tvm.s_tir import Schedule, ScheduleError
from tvm.target import Target

from tuner.designs.context import TF32, context_of
from tuner.designs.limits import Limits
from tuner.designs.parameters import parameters_of, spelled
from tuner.errors import CandidateError

_BATCH = 2048  # uniform draws looked at together
_TENSORISING = ("RewriteTensorize", "Tensorise")  # post-processors
_PARALLEL = "meta_schedule.parallel"  # by which a trace tells a post-processor to make loops parallel
_BATCHES = 64  # after which a space counts as one in which nothing keeps to the limits


@dataclass(frozen=True)
class Design:
    """A point of a design space as it came out."""

    knobs: Mapping[str, int]  # as read back: what TVM repaired is not what was asked for
    schedule: Any  # tvm.s_tir.Schedule, post-processed; its trace replays on the module of the space


class DesignSpace:
    """One way to schedule a function, with parameters.

    ``parameters`` maps names to what may be decided; ``default`` is the point that MetaSchedule generated first.
    """

    def __init__(self, module: Any, trace: Any, postprocs: tuple[Any, ...], target: Target, number: int) -> None:
        self.module, self.number = module, number
        self._trace, self._postprocs = trace, postprocs
        self._sampled = parameters_of(trace)
        self._limits = Limits(module, trace, self._sampled, target)
        self.parameters = {name: parameter for name, (parameter, _) in self._sampled.items()}
        self.default = self._read(trace)

    @property
    def distributions(self) -> dict[str, IntDistribution]:
        """The parameters as Optuna knows them."""
        return {name: parameter.distribution for name, parameter in self.parameters.items()}

    def spelled(self, knobs: Mapping[str, int]) -> dict[str, Any]:
        """What these numbers stand for."""
        return spelled(self.parameters, knobs)

    def draw(self, count: int, random: np.random.Generator) -> list[dict[str, int]]:
        """At most ``count`` different points, drawn evenly from those within what the target allows as far as known.

        Fewer where the space has few; none of them is sure to pass ``apply``.
        """
        if not self.parameters:
            return [{} for _ in range(min(count, 1))]
        found: dict[tuple[int, ...], None] = {}
        for _ in range(_BATCHES):
            drawn = {name: random.integers(0, len(p.values), _BATCH) for name, p in self.parameters.items()}
            kept = np.flatnonzero(self._limits.keep(drawn))
            columns = np.stack([drawn[name][kept] for name in self.parameters], axis=1)
            found |= dict.fromkeys(tuple(map(int, row)) for row in columns)
            if len(found) >= count:
                break
        return [dict(zip(self.parameters, row, strict=True)) for row in list(found)[:count]]

    def allows(self, knobs: Mapping[str, int]) -> bool:
        """Whether a point is within what the target allows, as far as can be told without making it."""
        if not self.parameters:
            return True
        return bool(self._limits.keep({name: np.array([number]) for name, number in knobs.items()})[0])

    def apply(self, knobs: Mapping[str, int], *, tensorise: bool = True, serial: bool = False) -> Design:
        """The schedule of a point. ``tensorise`` = False leaves the loops that a tensor core would replace; ``serial``
        leaves the loops that several cores of a CPU would share.

        Raises CandidateError (``rejected``) when the trace does not apply, or a post-processor, VerifyGPUCode say,
        refuses what it makes. Nothing is compiled.
        """
        trace = self._trace
        for name, number in knobs.items():
            parameter, inst = self._sampled[name]
            value = parameter.values[number]
            value = list(value) if isinstance(value, tuple) else value
            trace = trace.with_decision(inst, value, remove_postproc=True)
        schedule = Schedule(self.module, debug_mask="none")
        try:
            trace.apply_to_schedule(schedule, remove_postproc=False)
            came_out = self._read(schedule.trace)
            if serial:
                _for_one_core(schedule)
            schedule.enter_postproc()
            for postproc in self._postprocs:
                kind = type(postproc).__name__
                if kind in _TENSORISING and not tensorise:
                    continue
                if not postproc.apply(schedule):
                    raise CandidateError(f"MetaSchedule's {kind} refuses it.", code="rejected")
        except (ScheduleError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
            raise CandidateError(f"The decisions make no schedule: {reason}", code="rejected") from error
        return Design(came_out, schedule)

    def _read(self, trace: Any) -> dict[str, int]:
        """The decisions of a trace that this one's decisions, or others, made."""
        taken = parameters_decided(trace)
        return {name: self.parameters[name].number(taken[name]) for name in self.parameters}


def _for_one_core(schedule: Any) -> None:
    root = schedule.get_sblock("root")
    if _PARALLEL in schedule.get(root).annotations:
        schedule.unannotate(root, _PARALLEL)


def parameters_decided(trace: Any) -> dict[str, Any]:
    """Name -> decision, as TVM holds it, of every sampling instruction of a trace."""
    return {name: trace.decisions[inst] for name, (_, inst) in parameters_of(trace).items()}


def design_spaces(module: Any, target: Target, rules: str | None = None, seed: int = 1) -> tuple[DesignSpace, ...]:
    """Every design space of MetaSchedule's for a module whose one function is "main"; see ``context_of`` for rules.

    Empty for functions that leave nothing to decide. Deterministic for one seed.
    """
    context = context_of(module, target, rules, seed)
    postprocs = tuple(context.space_generator.postprocs or ())
    if rules == TF32:
        from tuner.designs.tf32 import postprocs as with_ours

        postprocs = with_ours(postprocs)
    return tuple(
        DesignSpace(module, schedule.trace, postprocs, target, number)
        for number, schedule in enumerate(context.generate_design_space())
    )
