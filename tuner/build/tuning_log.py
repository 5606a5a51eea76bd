"""The tuning log as a TVM MetaSchedule database: the module before scheduling, the trace that schedules it, its times.

Every kernel's function is called "main", as MetaSchedule expects. Queries in MetaSchedule ignore the target, so one
database holds the records of one target only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tvm
from tvm.s_tir import meta_schedule

from tuner.graph.ir import Graph
from tuner.kernels.registry import template
from tuner.types import Device, Trial

PER_QUESTION = 2  # best trials kept for each question: each costs a schedule made anew; trials.jsonl has them all


def write_tuning_log(folder: Path, trials: Iterable[Trial], device: Device) -> int:
    """Write the best trials of each question into ``folder`` (created); returns how many records it holds.

    ``trials`` are of one device; failed ones are left out (trials.jsonl has them). Records are loadable with
    ``meta_schedule.database.JSONDatabase`` of the TVM version named in the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = meta_schedule.database.JSONDatabase(
        path_workload=str(folder / "database_workload.json"),
        path_tuning_record=str(folder / "database_tuning_record.json"),
    )
    target = tvm.target.Target(device.target())
    count = 0
    for trial in _best(trials):
        c = trial.candidate
        workload = Graph.from_json(c.workload)
        kernel = template(c.template).build(workload, c.layouts, c.knobs, c.cores, device)
        args = meta_schedule.arg_info.ArgInfo.from_prim_func(kernel.module["main"])
        record = meta_schedule.database.TuningRecord(
            kernel.schedule.trace, database.commit_workload(kernel.module), list(trial.samples), target, args
        )
        database.commit_tuning_record(record)
        count += 1
    return count


def _best(trials: Iterable[Trial]) -> list[Trial]:
    """The fastest trials of each question, one per candidate, in a fixed order."""
    fastest: dict[str, Trial] = {}
    for trial in trials:
        known = fastest.get(trial.candidate.key)
        if trial.seconds is not None and (known is None or trial.seconds < (known.seconds or 0)):
            fastest[trial.candidate.key] = trial
    questions: dict[str, list[Trial]] = {}
    for trial in fastest.values():
        questions.setdefault(trial.candidate.record_key, []).append(trial)
    return [
        trial
        for question in questions.values()
        for trial in sorted(question, key=lambda t: t.seconds or 0.0)[:PER_QUESTION]
    ]
