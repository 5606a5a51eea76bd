"""One stage behind a sum: MetaSchedule's tensor-core rules put up with no chain of them where tiles need padding."""

from __future__ import annotations

from typing import Any

from tvm.s_tir import Schedule, ScheduleError
from tvm.tirx import IterVar


def joined(module: Any) -> Any:
    """A module whose one function is "main", what follows its last reduction inlined into its last stage.

    Stages that TVM does not inline stay.
    """
    schedule = Schedule(module, debug_mask="none")
    stages = schedule.get_child_blocks(schedule.get_sblock("root"))
    reductions = [k for k, stage in enumerate(stages) if _reduces(schedule.get(stage))]
    for stage in stages[reductions[-1] + 1 : -1] if reductions else ():
        try:
            schedule.compute_inline(stage)
        except ScheduleError:
            continue
    return schedule.mod


def _reduces(stage: Any) -> bool:
    return any(int(v.iter_type) == IterVar.CommReduce for v in stage.iter_vars)
