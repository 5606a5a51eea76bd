"""The searches that are compared: ours cold and calibrated, random, Optuna's TPE, TVM's evolutionary search."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.search.oracle import Oracle
from cost_model.boosted import BoostedTrees
from tuner.measure.replay import Recording
from tuner.search.allocation import Allocation
from tuner.search.experience import Experience
from tuner.search.knobs import KnobSearch

Search = Callable[[Oracle, int, Experience | None, Path], None]


def knob_search(recording: Recording, seed: int = 0) -> KnobSearch:
    return KnobSearch(recording.candidate, recording.workload, recording.space, recording.device, seed)


def ours(oracle: Oracle, seed: int, experience: Experience | None, out: Path, *, batch: int, calibrated: bool) -> None:
    """KnobSearch as a job drives it; calibrated: its model knows synthetic kernels, never one of this workload."""
    search = knob_search(oracle.recording, seed)
    model = BoostedTrees(seed=seed)
    job = Allocation({search.candidate.record_key: search}, model, experience if calibrated else None)
    while True:
        job.learn()
        for trial in oracle.measure(search.propose(batch, model)):
            job.tell(trial)


def at_random(oracle: Oracle, seed: int, experience: Experience | None, out: Path) -> None:
    """Every point once, in random order; the default is not favoured."""
    points = list(oracle.recording.space.points)
    random.Random(seed).shuffle(points)
    for knobs in points:
        oracle.seconds(knobs)


def tpe(oracle: Oracle, seed: int, experience: Experience | None, out: Path) -> None:
    """Optuna's TPE with its own settings; knobs are indexes, points outside the space are pruned unmeasured."""
    import optuna

    space = oracle.recording.space
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    worst = 0.0
    for _ in range(20 * len(space.points)):
        trial = study.ask()
        knobs = {name: v[trial.suggest_int(name, 0, len(v) - 1)] for name, v in space.knobs.items()}
        if knobs not in space:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        seconds = oracle.seconds(knobs)
        worst = max(worst, seconds or 0.0)
        study.tell(trial, float(np.log(seconds)) if seconds else float(np.log(worst or 1.0)) + 2.0)


def evolution(
    oracle: Oracle, seed: int, experience: Experience | None, out: Path, *, batch: int = 64, warmup: int = 100
) -> None:
    """MetaSchedule's evolutionary search; see bench.search.evolution."""
    from bench.search.evolution import evolve

    evolve(
        oracle.recording, oracle.seconds, seed, batch=batch, warmup=warmup, features=_per_store(oracle.recording, out)
    )


_features: dict[str, Any] = {}


def _per_store(recording: Recording, out: Path) -> Any:
    """TVM's features of all points of a space, made once and kept on disk."""
    from bench.search.evolution import extract_all

    if recording.name not in _features:
        _features[recording.name] = extract_all(recording, out / f"{recording.name}.features.npz")
    return _features[recording.name]


def _with(search: Callable[..., None], **options: Any) -> Search:
    return lambda oracle, seed, experience, out: search(oracle, seed, experience, out, **options)


SEARCHES: dict[str, Search] = {
    "fusetune calibrated": _with(ours, batch=1, calibrated=True),
    "fusetune cold": _with(ours, batch=1, calibrated=False),
    "fusetune calibrated in fours": _with(ours, batch=4, calibrated=True),
    "fusetune cold in fours": _with(ours, batch=4, calibrated=False),
    "random": at_random,
    "Optuna TPE": tpe,
    "evolutionary as it comes": evolution,  # 64 a round, a model after 100
    "evolutionary in eights": _with(evolution, batch=8, warmup=8),
}
