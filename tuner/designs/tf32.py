"""Tensor cores on float32, multiplied as tf32: the rules, and the steps that put our intrinsics into a schedule.

MetaSchedule tiles for matrices in the scopes of TVM's "wmma" intrinsics, which it knows by the names in ``groups``.
What replaces them is ``mma.sync.m16n8k8`` itself: each matrix is laid out as a warp's registers hold it (``Fragment``)
and moves to the scope "warp". Elements are rounded to tf32, to nearest and ties away from zero as NVIDIA advises, on
their way from shared memory to registers, which plain loads fill: ``ldmatrix`` transposes 16-bit elements alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule, meta_schedule
from tvm.s_tir.stmt import SBlock
from tvm.tirx import IndexMap

from tuner.designs.fragments import A, B, C, Fragment
from tuner.designs.tf32_intrinsics import INIT, LOAD_A, LOAD_B, MMA, OWN, SHAPES, SHARED, STORE, TRANS, WARP, register

_FRAGMENTS = "warp"  # scope of what lanes hold together, while loops are loops
_MARK = "meta_schedule.auto_tensorize"
# (a, b): with rows in shared memory of b modulo a numbers the lanes of a load meet different banks.
PITCHES = {LOAD_A: (8, 4), LOAD_B: (16, 8), LOAD_B + TRANS: (8, 4)}
_LAYOUTS = {LOAD_A: A, LOAD_B: B, LOAD_B + TRANS: B.swapped(), MMA: C, MMA + TRANS: C}


def rules() -> list[Any]:
    """MetaSchedule's rules for the target kind "cuda", with tensor cores first."""
    register()
    must = meta_schedule.schedule_rule.ReuseType
    tensor_cores = meta_schedule.schedule_rule.MultiLevelTilingTensorCore(
        groups(), "SSSRRSRS", ["blockIdx.y", "blockIdx.x", "threadIdx.y"], 4, [1, 2, 4],
        reuse_read=must("must", [4], SHARED), reuse_write=must("must", [2], SHARED), use_software_pipeline=False,
    )  # fmt: skip
    return [tensor_cores, *meta_schedule.schedule_rule.ScheduleRule.create("cuda")[1:]]


class LayOut:
    """``lay_out`` as a post-processor. To come before the one that verifies how much shared memory is used."""

    def apply(self, schedule: Schedule) -> bool:
        lay_out(schedule)
        return True


class Tensorise:
    """``tensorise`` as a post-processor, the last one."""

    def apply(self, schedule: Schedule) -> bool:
        tensorise(schedule)
        return True


def postprocs(known: Sequence[Any]) -> tuple[Any, ...]:
    """MetaSchedule's post-processors for the target kind "cuda", of which the last verifies, and ours."""
    return (*known[:-1], LayOut(), known[-1], Tensorise())


def groups() -> list[dict[str, str]]:
    """The intrinsics as MetaSchedule wants them: with B as it is, and with B transposed in shared memory."""
    return [
        {"init": SHAPES + INIT, "load_a": SHAPES + LOAD_A, "load_b": SHAPES + LOAD_B + trans,
         "compute": SHAPES + MMA + trans, "store": SHAPES + STORE}
        for trans in ("", TRANS)
    ]  # fmt: skip


def lay_out(schedule: Schedule) -> None:
    """Bring what is tiled for tensor cores into the layout of a warp's registers; loops stay loops.

    Rows in shared memory get a pitch at which the lanes of a load find different banks.
    """
    for name, job in _jobs(schedule):
        block = schedule.get_sblock(name)
        if job in PITCHES:
            (producer,) = schedule.get_producers(block)
            schedule.storage_align(producer, 0, -2, *PITCHES[job])
        if job in _LAYOUTS:
            buffer = schedule.get(block).writes[0].source
            schedule.transform_layout(
                block, ("write", 0), _index_map(_LAYOUTS[job], len(buffer.shape)), assume_injective_transform=True
            )
            schedule.set_scope(block, 0, _FRAGMENTS)


def tensorise(schedule: Schedule) -> None:
    """Replace the loops that were laid out by tensor cores' instructions. Raises ScheduleError where they differ.

    Loops over what a lane keeps in registers are unrolled: registers cannot be indexed.
    """
    jobs = _jobs(schedule)
    _unroll(schedule, jobs)
    for name, job in jobs:
        if job in _LAYOUTS:
            schedule.set_scope(schedule.get_sblock(name), 0, OWN)
    for name, job in jobs:
        block = schedule.get_sblock(name)
        schedule.unannotate(block, _MARK)
        schedule.tensorize(block, WARP + job)


def _unroll(schedule: Schedule, jobs: list[tuple[str, str]]) -> None:
    """Unroll the loops within the innermost one in which operands are loaded, and those over the accumulators."""
    around = {job: schedule.get_loops(schedule.get_sblock(name)) for name, job in jobs}
    if len(around) != len(jobs):
        raise ValueError("it holds several products for tensor cores")
    nests = [[schedule.get(loop) for loop in loops] for job, loops in around.items() if job not in (INIT, STORE)]
    common = 0
    while nests and all(common < len(nest) and nest[common].same_as(nests[0][common]) for nest in nests):
        common += 1
    for job, loops in around.items():
        for loop in loops if job in (INIT, STORE) else loops[common:]:
            if schedule.get(loop).thread_binding is None:
                schedule.unroll(loop)


def _jobs(schedule: Schedule) -> list[tuple[str, str]]:
    """Name and intrinsic of each block that one of ours is to replace."""
    found = []

    def see(block: Any) -> None:
        wanted = str(block.annotations.get(_MARK, "")) if block.annotations else ""
        if wanted.startswith(SHAPES):
            found.append((str(block.name_hint), wanted.removeprefix(SHAPES)))

    tvm_ffi.structural_walk(schedule.mod["main"].body, (SBlock, see))
    return found


def _index_map(fragment: Fragment, dimensions: int) -> IndexMap:
    """The last two of so many dimensions become: tiles down, tiles across, lane, register."""
    axes = [tirx.Var(f"i{k}", "int32") for k in range(dimensions)]
    *lead, i, j = axes
    lane, register = fragment.place(i % fragment.rows, j % fragment.columns)
    return IndexMap(axes, [*lead, i // fragment.rows, j // fragment.columns, lane, register], None)
