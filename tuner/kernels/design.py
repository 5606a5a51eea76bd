"""What no template of ours serves: the whole block through TVM's importer, scheduled by MetaSchedule's design spaces.

The block is one function, however many operators TVM makes of it. Its knobs say which design space ("space", from 1),
and each sampling decision of that space (``tuner.designs``); space 0 is the default schedule that imported layers have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import tvm
from tvm.ir.expr import TensorLoad
from tvm.s_tir import Schedule, ScheduleError
from tvm.s_tir.analysis import estimate_tir_flops
from tvm.target import Target

from tuner.build.binary import Arg
from tuner.designs.parameters import PLACE
from tuner.designs.space import DesignSpace, design_spaces
from tuner.errors import CandidateError
from tuner.graph.ir import Graph
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.importing import REFUSALS, weights_of, whole_function
from tuner.kernels.scheduling import schedule_of
from tuner.kernels.spreading import REDUCE, spread
from tuner.plan.layout import PLAIN
from tuner.plan.plan import DESIGN
from tuner.types import Device

SPACE = "space"  # the knob that says which one
MUCH = 64 << 10  # bytes of all tensors from which a function without sums is worth tuning
AGAIN = 2.0  # times the operations of the function that a design may do: stages put into loops are computed repeatedly
MOST_SUMS = 4  # stages that sum: each in one piece or in several, of two kinds, which makes three times as many spaces
PLACES, SUMMED_PLACES = 14, 5  # values of a "place" knob: behind the first two, as many loops from the outside; fewer
#                                where several stages sum, and computing one again costs most


class Design(KernelTemplate):
    """Plain float32 tensors, one output. Asked when every other template has refused (``registry.foreign``)."""

    name = DESIGN

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        types = [workload.type_of(n) for n in (*workload.tensors, *weights_of(workload))]
        if len(workload.outputs) != 1 or any(t.dtype != "float32" or not t.elements for t in types):
            return False
        if device.kind != "cpu" or any(layout != PLAIN for layout in layouts.values()):
            return False
        found = designed(workload, device)
        return found is not None and (found.sums > 0 or sum(t.bytes for t in types) >= MUCH)

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return _found(workload, device).knobs

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        found = _found(workload, device)
        names = (*workload.inputs, *weights_of(workload), *workload.outputs)
        args = tuple(_arg(workload, name) for name in names)
        if not knobs[SPACE]:
            schedule = schedule_of(found.module)
            spread(schedule, cores, device)
            return Kernel(found.module, schedule, args)
        space = found.spaces[knobs[SPACE] - 1]
        schedule = space.apply(found.decisions(knobs), serial=cores == 1).schedule
        again = estimate_tir_flops(schedule.mod) / max(1.0, estimate_tir_flops(found.module))
        if again > AGAIN:
            raise CandidateError(f"It computes {again:.3g} times what it has to.", code="rejected")
        return Kernel(space.module, schedule, args)


@dataclass(frozen=True)
class Designed:
    """A workload as one function, the ways to schedule it, and these as knobs."""

    module: Any  # tvm.IRModule of the one function "main"
    spaces: tuple[DesignSpace, ...]
    sums: int  # stages that sum, or reduce otherwise
    knobs: Space

    def decisions(self, knobs: Knobs) -> dict[str, int]:
        """The point of its design space that knobs stand for; nothing for the default schedule."""
        if not knobs[SPACE]:
            return {}
        return {name: knobs.get(name, 0) for name in self.spaces[knobs[SPACE] - 1].parameters}

    def spelled(self, knobs: Knobs) -> dict[str, Any]:
        """The same as what is decided: factors of loops as lists."""
        return self.spaces[knobs[SPACE] - 1].spelled(self.decisions(knobs)) if knobs[SPACE] else {}


def designed(workload: Graph, device: Device) -> Designed | None:
    """None for what TVM's importer or MetaSchedule cannot do, leaves nothing to decide, or more than can be listed."""
    return _designed(_Hashed(workload.hash, workload), device)


def _found(workload: Graph, device: Device) -> Designed:
    found = designed(workload, device)
    if found is None:
        raise ValueError("accepts() refuses such a workload")
    return found


@dataclass(frozen=True)
class _Hashed:
    """A workload that equals those of equal hash."""

    hash: str
    workload: Graph = field(compare=False)


@lru_cache(maxsize=256)
def _designed(key: _Hashed, device: Device) -> Designed | None:
    target = Target(device.target())
    try:
        function = whole_function(key.workload, target)
        module = tvm.IRModule({"main": function})
        sums = _sums(module)
        spaces = design_spaces(_without_moves(module), target) if sums <= MOST_SUMS else ()
    except REFUSALS:  # ScheduleError is one of them
        return None
    return Designed(module, spaces, sums, knobs_of(spaces, SUMMED_PLACES if sums > 1 else PLACES)) if spaces else None


def knobs_of(spaces: tuple[DesignSpace, ...], places: int = PLACES) -> Space:
    """Design spaces as one space of knobs, whose default is none of them.

    Parameters of one name share a knob, although they may decide different things. Of knobs that a space does not know,
    or that say more than it can tell apart, ``fold`` makes a point that it does.
    """
    values = [
        {name: min(len(p.values), places) if p.kind == PLACE else len(p.values) for name, p in space.parameters.items()}
        for space in spaces
    ]
    names = sorted({name for counts in values for name in counts}, key=_order)
    most = {name: max(counts.get(name, 1) for counts in values) for name in names}
    most = {name: count for name, count in most.items() if count > 1}

    def fold(knobs: Knobs) -> dict[str, int]:
        counts: Mapping[str, int] = values[knobs[SPACE] - 1] if knobs[SPACE] else {}
        return {SPACE: knobs[SPACE], **{name: knobs[name] % counts.get(name, 1) for name in most}}

    knobs = {SPACE: range(len(spaces) + 1), **{name: range(count) for name, count in most.items()}}
    return Space(knobs, dict.fromkeys(knobs, 0), lambda point: fold(point) == dict(point), fold)


def _order(name: str) -> tuple[str, int]:
    """ "tile10" behind "tile9"."""
    kind = name.rstrip("0123456789")
    return kind, int(name[len(kind) :])


def _without_moves(module: Any) -> Any:
    """The module with what only moves numbers, a bias that is given another shape say, put into elementwise readers.

    MetaSchedule inlines those alone that keep the order of axes, and then cannot fuse what reads the others.
    """
    schedule = Schedule(module, debug_mask="none")
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        value = getattr(schedule.get(block).body, "value", None)
        readers = schedule.get_consumers(block)
        if isinstance(value, TensorLoad) and not any(_reduces(schedule, reader) for reader in readers):
            try:
                schedule.compute_inline(block)
            except ScheduleError:
                continue  # the result itself, or what cannot be told from its index
    return schedule.mod


def _sums(module: Any) -> int:
    schedule = Schedule(module, debug_mask="none")
    return sum(_reduces(schedule, block) for block in schedule.get_child_blocks(schedule.get_sblock("root")))


def _reduces(schedule: Schedule, block: Any) -> bool:
    return any(int(v.iter_type) == REDUCE for v in schedule.get(block).iter_vars)


def _arg(workload: Graph, name: str) -> Arg:
    role = "constant" if name in workload.constants else "output" if name in workload.outputs else "input"
    of = workload.type_of(name)
    return Arg(name, role, tuple(of.shape), of.dtype)
