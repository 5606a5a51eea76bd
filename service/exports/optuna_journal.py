"""A job's trials as an Optuna journal: one study for each workload, template and core count.

A program of its own: ``python -m service.exports.optuna_journal --db URL --job ID --out FILE``. What it writes opens
with ``optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(FILE))`` and ``optuna-dashboard FILE``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from db.store import Store
from db.trials import StoredTrial
from service.exports.program import known_job, main, summaries, trials_of
from tuner.types import Candidate

LAYOUT = "layouts"  # a parameter of studies whose workload was measured in several layouts
Key = tuple[str, str, int]  # workload hash, template, cores


class Journal(BaseJournalBackend):  # type: ignore[misc]
    """A journal that is only written. While ``forgetful``, what is written is not read back.

    Optuna's own file backend syncs the disk at each entry, and the storage above keeps all that it reads back: minutes
    and a gigabyte for 100,000 trials.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._kept: list[dict[str, Any]] = []
        self.forgetful = False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            self._file.write(json.dumps(log, separators=(",", ":")).encode() + b"\n")
        if not self.forgetful:
            self._kept += logs

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._kept[log_number_from:]


@dataclass
class _Space:
    """What was tried in one study, so that its parameters' ranges are known before its first trial is written."""

    knobs: dict[str, set[int]] = field(default_factory=dict)
    layouts: set[str] = field(default_factory=set)

    def add(self, c: Candidate) -> None:
        for name, value in c.knobs.items():
            self.knobs.setdefault(name, set()).add(value)
        self.layouts.add(_layouts(c))

    def distributions(self) -> dict[str, BaseDistribution]:
        found: dict[str, BaseDistribution] = {
            name: IntDistribution(min(values), max(values)) for name, values in self.knobs.items()
        }
        if len(self.layouts) > 1:
            found[LAYOUT] = CategoricalDistribution(sorted(self.layouts))
        return found


def write_journal(store: Store, job: str, out: Path) -> None:
    """Write the journal of a job to ``out``. Raises UserError (``unknown-job``)."""
    facts = known_job(store, job)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    spaces: dict[Key, _Space] = {}
    for stored in trials_of(store, job):
        spaces.setdefault(_key(stored), _Space()).add(stored.trial.candidate)
    with out.open("wb") as file:
        journal = Journal(file)
        storage = optuna.storages.JournalStorage(journal)
        words = summaries(store, job)
        studies = {key: _study(storage, key, words.get(key[0], ""), facts) for key in spaces}
        distributions = {key: space.distributions() for key, space in spaces.items()}
        for stored in trials_of(store, job):
            key = _key(stored)
            if key in studies:  # a running job may have begun a new one since
                studies[key].add_trial(_frozen(stored, distributions[key]))
                journal.forgetful = True  # the storage must have seen one trial of its own, and needs no more


def _study(storage: Any, key: Key, summary: str, job: Any) -> Any:
    workload, template, cores = key
    name = f"{summary or 'workload'} {workload[:12]}, {template}, {cores} {'core' if cores == 1 else 'cores'}"
    study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
    study.set_metric_names(["seconds"])
    facts = {"workload": workload, "template": template, "cores": cores, "job": job.id, "model": job.spec.model,
             "device": job.device, "toolchain": job.toolchain}  # fmt: skip
    for attribute, value in facts.items():
        study.set_user_attr(attribute, value)
    return study


def _frozen(stored: StoredTrial, known: Mapping[str, BaseDistribution]) -> FrozenTrial:
    trial, c = stored.trial, stored.trial.candidate
    params: dict[str, Any] = dict(c.knobs)
    attributes: dict[str, Any] = {
        "trial": stored.id, "purpose": trial.purpose.value, "layouts": _layouts(c), "precision": c.precision,
        "residency": c.residency, "template_version": c.template_version, "build_seconds": trial.build_seconds,
        "measure_seconds": trial.measure_seconds,
    }  # fmt: skip
    if trial.failure is None:
        attributes |= {"samples": len(trial.samples), "min_seconds": min(trial.samples)}
    else:
        attributes |= {"failure": trial.failure.kind.value, "message": trial.failure.message}
    if LAYOUT in known:
        params[LAYOUT] = _layouts(c)
    distributions = {name: _including(known.get(name), value) for name, value in params.items()}
    return FrozenTrial(
        number=0,  # Optuna counts anew
        trial_id=0,
        state=TrialState.COMPLETE if trial.failure is None else TrialState.FAIL,
        value=trial.seconds,
        datetime_start=stored.created_at - timedelta(seconds=trial.build_seconds + trial.measure_seconds),
        datetime_complete=stored.created_at,
        params=params,
        distributions=distributions,
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={},
    )


def _including(known: BaseDistribution | None, value: Any) -> BaseDistribution:
    """The distribution, widened where a running job has gone beyond it since the ranges were read."""
    if isinstance(known, CategoricalDistribution):
        return known if value in known.choices else CategoricalDistribution([*known.choices, value])
    if known is None:
        return IntDistribution(value, value)
    return IntDistribution(min(known.low, value), max(known.high, value))


def _key(stored: StoredTrial) -> Key:
    c = stored.trial.candidate
    return c.workload_hash, c.template, c.cores


def _layouts(c: Candidate) -> str:
    return ", ".join(f"{name} {layout}" for name, layout in sorted(c.layouts.items()))


if __name__ == "__main__":
    sys.exit(main("service.exports.optuna_journal", write_journal))
