"""The plan of a model that is being built: which chosen kernels run side by side, and on how many SMs each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.errors import CandidateError
from tuner.gpu.estimate import LAUNCH, occupied, resident_blocks
from tuner.gpu.lower import Lowered
from tuner.gpu.persistent import limited
from tuner.gpu.program import Program
from tuner.gpu.reading import read_program
from tuner.gpu.sidebyside import arranged, in_turn, to_plan
from tuner.gpu.spec import GpuSpec
from tuner.plan.arranging import Arrangement, Timed
from tuner.plan.plan import Plan

if TYPE_CHECKING:
    from tuner.gpu.reporting import Chosen


@dataclass(frozen=True)
class Planned:
    """What a model's launches are to be; without a ``program`` TVM's virtual machine makes them, and ``why`` says so.

    ``functions``: the library's name of each call's kernel, ``limited`` those among them that are to be added to the
    library, on fewer SMs than the task's own.
    """

    program: Program | None = None
    constants: tuple[np.ndarray, ...] = ()
    plan: Plan | None = None
    functions: tuple[str, ...] = ()
    limited: Mapping[str, Any] = field(default_factory=dict)  # name -> scheduled PrimFunc
    seconds: float = 0.0  # expected
    in_turn: float = 0.0  # expected with one kernel after the other
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The manifest's entry ``launches``."""
        if self.program is None:
            return {"program": None, "cuda_graph": False, "why": self.why}
        return {"program": self.program.to_json(), "functions": list(self.functions), "cuda_graph": True, "why": None,
                "expected_ms": 1e3 * self.seconds, "expected_in_turn_ms": 1e3 * self.in_turn}  # fmt: skip


def plan_model(
    lowered: Lowered, chosen: Sequence[Chosen], functions: Mapping[str, Any], fewer: Sequence[int], spec: GpuSpec
) -> Planned:
    """Plan a model whose tasks have these kernels; ``functions``: by symbol. ``fewer``: other numbers of SMs."""
    try:
        program, constants = read_program(lowered)
    except CandidateError as error:
        return Planned(why=error.message)
    by_task = {each.task.hash: each for each in chosen}
    variants = {
        each.task.hash: _variants(each, functions[each.task.symbols[0]], fewer, spec) for each in chosen
    }  # fmt: skip
    times = [
        _timed(program.bytes(number), by_task.get(call.task or ""), variants.get(call.task or "", {}), spec)
        for number, call in enumerate(program.calls)
    ]
    best: Arrangement = arranged(program, times, spec.sms)
    plan = to_plan(program, best, times)
    cores = {block.layers[0]: block.cores for block in plan.blocks}
    names, added = [], {}
    for name, call in zip(program.names, program.calls, strict=True):
        known = variants.get(call.task or "", {})
        given = cores[name]
        if given in known:
            added[f"{call.symbol}_on_{given}"] = known[given]
            names.append(f"{call.symbol}_on_{given}")
        else:
            names.append(call.symbol)
    together = in_turn(program, times, spec.sms).seconds
    return Planned(program, constants, plan, tuple(names), added, best.seconds, together)


def _variants(chosen: Chosen, function: Any, fewer: Sequence[int], spec: GpuSpec) -> dict[int, Any]:
    """The kernel on fewer SMs than it fills, by their number, where its grid divides so."""
    counts = chosen.seen.looked.counts
    found = {}
    for cores in fewer:
        if cores >= occupied(counts, spec) or counts.launches > 1:
            continue
        try:
            found[cores] = limited(function, cores * max(1, resident_blocks(counts, spec)))
        except CandidateError:
            continue
    return found


def _timed(size: float, chosen: Chosen | None, variants: Mapping[int, Any], spec: GpuSpec) -> Timed:
    floor = size / spec.bandwidth
    if chosen is None:
        return Timed({spec.sms: LAUNCH + floor}, floor)
    measured = chosen.trial.seconds if chosen.trial else None
    whole = measured or chosen.predicted
    own = occupied(chosen.seen.looked.counts, spec)
    seconds = {own: whole}
    for cores in variants:
        if cores in chosen.fewer:
            seconds[cores] = chosen.fewer[cores]
        elif measured is None:  # beside times that were measured a guess says little
            seconds[cores] = whole * own / cores
    return Timed(seconds, floor)
