"""TVM MetaSchedule's evolutionary search over our knobs, driven through its own classes.

Real: EvolutionarySearch, its database of measured records, XGBModel on TVM's per-store features of the scheduled
kernel. Ours: a carrier function on which each knob is a ``sample_categorical`` decision, annotated on its block (our
template bakes knobs into the packed shapes, so that they cannot be decisions in one module's trace); a mutator that
draws one decision anew, as TVM's MutateUnroll does for its one categorical decision (TVM has none for others); and a
postprocessor that refuses combinations outside the space, as VerifyGPUCode refuses bad tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import te
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule, meta_schedule

from tuner.kernels.registry import template
from tuner.measure.replay import Recording

Measure = Callable[[Mapping[str, int]], float | None]
PerStore = Mapping[tuple[int, ...], np.ndarray]  # knobs' values -> TVM's per-store features [stores, columns]
_PREFIX = "knob_"


def evolve(recording: Recording, measure: Measure, seed: int, *, batch: int, warmup: int, features: PerStore) -> None:
    """Search until ``measure`` raises or the search gives up. It is called once per candidate that is new.

    Args:
        measure: knobs -> median seconds, None for a failure.
        batch: candidates per round; TVM's default is 64.
        warmup: samples before which TVM's cost model answers at random; its default is 100.
        features: of every point, from ``extract_all``.
    """
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)
    space = recording.space
    target = tvm.target.Target(recording.device.target())
    np.random.seed(seed)  # the model's random answers before its warm-up
    generator = meta_schedule.space_generator.ScheduleFn(
        _sampler(space.knobs), sch_rules=[], postprocs=[_Inside(space)], mutator_probs={_Redraw(seed): 1.0}
    )
    context = meta_schedule.TuneContext(
        mod=_carrier(), target=target, space_generator=generator, rand_state=seed + 1, num_threads=1,
        search_strategy=meta_schedule.search_strategy.EvolutionarySearch(),
    )  # fmt: skip
    database = meta_schedule.database.MemoryDatabase()
    config = meta_schedule.cost_model.xgb_model.XGBConfig(nthread=1, seed=seed)
    model = meta_schedule.cost_model.XGBModel(
        extractor=_Extractor(list(recording.values), features), config=config, num_warmup_samples=warmup
    )
    context.pre_tuning(len(recording.points), batch, None, database, model)
    workload = database.commit_workload(context.mod)
    while candidates := context.generate_measure_candidates():
        results = []
        for candidate in candidates:
            seconds = measure(knobs_of(candidate.sch))
            failed = seconds is None
            results.append(
                meta_schedule.runner.RunnerResult(None if failed else [seconds], "it failed" if failed else None)
            )
            record = meta_schedule.database.TuningRecord(
                candidate.sch.trace, workload, [1e10 if failed else seconds], target, candidate.args_info
            )
            database.commit_tuning_record(record)
        context.notify_runner_results(candidates, results)
        model.update(context, candidates, results)


def knobs_of(schedule: Schedule) -> dict[str, int]:
    """The knobs annotated on a schedule of the carrier."""
    annotations = schedule.get(schedule.get_sblock("carrier")).annotations
    return {k.removeprefix(_PREFIX): int(v) for k, v in annotations.items() if k.startswith(_PREFIX)}


def _carrier() -> tvm.IRModule:
    data = te.placeholder((8,), name="data")
    function = te.create_prim_func([data, te.compute((8,), lambda i: data[i] + 1, name="carrier")])
    return tvm.IRModule({"main": function.with_attr({"global_symbol": "main", "tirx.noalias": True})})


def _sampler(knobs: Mapping[str, Any]) -> Callable[[Schedule], Schedule]:
    def sample(schedule: Schedule) -> Schedule:
        block = schedule.get_sblock("carrier")
        for name, values in knobs.items():
            chosen = schedule.sample_categorical(list(values), [1 / len(values)] * len(values))
            schedule.annotate(block, _PREFIX + name, chosen)
        return schedule

    return sample


@derived_object
class _Redraw(meta_schedule.mutator.PyMutator):
    """Gives one categorical decision another value, drawn evenly."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.random = np.random.default_rng(seed)

    def _initialize_with_tune_context(self, context: Any) -> None:
        pass

    def apply(self, trace: Any, _: Any) -> Any:
        choices = [i for i in trace.insts if i.kind.name == "SampleCategorical" and len(i.attrs[0]) > 1]
        chosen = choices[self.random.integers(len(choices))]
        decision = int(trace.decisions[chosen])
        others = [d for d in range(len(chosen.attrs[0])) if d != decision]
        return trace.with_decision(chosen, int(self.random.choice(others)), remove_postproc=True)

    def clone(self) -> Any:
        return _Redraw(self.seed)


@derived_object
class _Inside(meta_schedule.postproc.PyPostproc):
    """Refuses knobs outside the space."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.space = space

    def _initialize_with_tune_context(self, context: Any) -> None:
        pass

    def apply(self, sch: Schedule) -> bool:
        return knobs_of(sch) in self.space

    def clone(self) -> Any:
        return _Inside(self.space)


@derived_object
class _Extractor(meta_schedule.feature_extractor.PyFeatureExtractor):
    """TVM's per-store features of the kernels that the knobs stand for, looked up."""

    def __init__(self, names: Sequence[str], features: PerStore) -> None:
        super().__init__()
        self.names, self.features = names, features

    def extract_from(self, context: Any, candidates: list[Any]) -> list[Any]:
        every = (knobs_of(c.sch) for c in candidates)
        return [tvm.runtime.tensor(self.features[tuple(knobs[n] for n in self.names)]) for knobs in every]


def extract_all(recording: Recording, path: Path) -> PerStore:
    """Per-store features of every point's scheduled kernel, by knobs; kept in ``path`` (.npz)."""
    if path.exists():
        with np.load(path) as data:
            return {tuple(map(int, key.split(","))): data[key] for key in data.files}
    c = recording.candidate
    context = meta_schedule.TuneContext(
        mod=_carrier(), target=tvm.target.Target(recording.device.target()), num_threads=1
    )
    extractor = meta_schedule.feature_extractor.PerStoreFeature()
    found = {}
    for knobs in recording.space.points:
        kernel = template(c.template).build(recording.workload, c.layouts, knobs, c.cores, recording.device)
        args = meta_schedule.arg_info.ArgInfo.from_prim_func(kernel.module["main"])
        (rows,) = extractor.extract_from(context, [meta_schedule.MeasureCandidate(kernel.schedule, args)])
        found[tuple(knobs.values())] = rows.numpy()
    np.savez_compressed(path, **{",".join(map(str, key)): rows for key, rows in found.items()})
    return found
