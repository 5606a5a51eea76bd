"""What a device's earlier trials teach the search for knobs: how the points of a question compare.

Every question counts whose knobs were tried before, by whichever job, or by a calibration: that tries a few knobs of
many synthetic kernels. How fast a question is as a whole is left out; its own measurements tell that at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from statistics import median
from typing import Protocol

import numpy as np

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.search.calibration import place
from tuner.search.features import Features
from tuner.types import Candidate, Device, Trial

NEWEST = 6000  # trials that are looked at
MOST = 2500  # points that are learned from, the newest: a model learns anew several times in a job
OF_EACH = 40  # points of one question, so that a kernel searched at length does not outweigh all others
FEWEST = 3  # points of a question from which on they say something


@dataclass(frozen=True)
class Experience:
    """Points of questions that were asked before, as the cost model learns them (see ``KnobSearch.samples``)."""

    rows: np.ndarray  # [n, columns]
    targets: np.ndarray  # [n] log-seconds over expected seconds, the question's median taken off
    keys: np.ndarray  # [n] record keys

    def __len__(self) -> int:
        return len(self.targets)

    def besides(self, keys: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rows and targets of all other questions than these."""
        other = ~np.isin(self.keys, list(keys))
        return self.rows[other], self.targets[other]

    @staticmethod
    def of(trials: Iterable[Trial], device: Device) -> Experience | None:
        """What these trials teach, the oldest first; None where they teach nothing.

        Trials by other versions of a template than the present one teach nothing about it.
        """
        found: dict[str, dict[str, list[Trial]]] = {}  # record key -> candidate key -> trials
        for trial in trials:
            if trial.samples and _current(trial.candidate.template, trial.candidate.template_version):
                question = found.setdefault(trial.candidate.record_key, {})
                question.setdefault(trial.candidate.key, []).append(trial)
        parts, count = [], 0
        for key, points in reversed(found.items()):
            if len(points) >= FEWEST and count < MOST:
                parts.append(_question(key, list(points.values())[-OF_EACH:], device))
                count += len(parts[-1])
        if not parts:
            return None
        return Experience(*(np.concatenate([getattr(p, n) for p in parts])[:MOST] for n in ("rows", "targets", "keys")))


class _Trials(Protocol):
    def samples(self, device: str, toolchain: str, *, limit: int) -> Sequence[Trial]: ...


class ExperienceStore(Protocol):
    """What ``db.Store`` has of this."""

    @property
    def trials(self) -> _Trials: ...


def load_experience(store: ExperienceStore, device: Device) -> Experience | None:
    """What is known of this device; None without anything. A simulated device has no knobs."""
    if device.simulated:
        return None
    return Experience.of(store.trials.samples(device.fingerprint, place(device), limit=NEWEST), device)


def _question(key: str, points: Sequence[Sequence[Trial]], device: Device) -> Experience:
    candidate: Candidate = points[0][0].candidate
    workload = Graph.from_json(candidate.workload)
    features = Features(workload, candidate.template, candidate.cores, device, candidate.layouts)
    knobs = [trials[0].candidate.knobs for trials in points]
    seconds = [log(median([s for trial in trials for s in trial.samples])) for trials in points]
    return Experience(features.rows(knobs), features.targets(knobs, seconds), np.full(len(knobs), key))


@cache
def _current(name: str, version: int) -> bool:
    """Whether a template of this version exists."""
    from tuner.kernels.registry import template  # brings TVM

    try:
        return template(name).version == version
    except UserError:
        return False
