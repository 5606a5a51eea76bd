"""A default schedule for any PrimFunc: its loop nests spread over the cores and vectorised as far as they allow."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.s_tir import Schedule, ScheduleError

from tuner.kernels.scheduling import parallelise
from tuner.types import Device

SPATIAL, REDUCE = 0, 2  # tirx.IterVar kinds


def default_schedule(func: Any, cores: int, device: Device) -> Any:
    """Every loop nest of a PrimFunc spread over ``cores`` and vectorised; as it was where its loops do not allow it."""
    sch = Schedule(tvm.IRModule({"main": func}), debug_mask="none")
    spread(sch, cores, device)
    return sch.mod["main"]


def spread(sch: Schedule, cores: int, device: Device) -> None:
    """The same for the function of a Schedule, whose trace then says it."""
    try:
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
    except ScheduleError:
        return
    for block in blocks:
        try:
            _spread(sch, block, cores, device)
        except ScheduleError:
            continue  # e.g. data-dependent or opaque loops: they stay serial


def _spread(sch: Schedule, block: Any, cores: int, device: Device) -> None:
    loops = sch.get_loops(block)
    kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
    if len(kinds) != len(loops) or not loops:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == SPATIAL]
    reduce = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == REDUCE]
    if not spatial or len(spatial) + len(reduce) != len(loops):
        return
    if reduce:
        sch.reorder(*spatial, *reduce)
        parallelise(sch, sch.fuse(*spatial), cores, device.cores)
        return
    whole = sch.fuse(*spatial)
    extent = sch.get(whole).extent
    width = device.lanes
    if not isinstance(extent, tvm.tirx.IntImm):
        return  # a shape that is only known at run time
    if int(extent) % width == 0 and int(extent) > width:
        whole, lane = sch.split(whole, [None, width])
        sch.vectorize(lane)
    if int(sch.get(whole).extent) > 1:
        parallelise(sch, whole, cores, device.cores)
