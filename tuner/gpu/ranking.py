"""Which candidates to build: a first guess from what a kernel does, corrected by XGBoost where times are known.

The model learns log(measured / guessed) from what a schedule's loops show, so that with nothing measured the guess
stands, and one task's times say something about another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np

from cost_model.boosted import BoostedTrees
from tuner.gpu.counts import Counts
from tuner.gpu.estimate import estimate, resident_blocks
from tuner.gpu.spec import GpuSpec

FEWEST = 8  # measured candidates from which the model is asked


@dataclass(frozen=True)
class Looked:
    """What is known of a candidate without building it."""

    counts: Counts
    guess: float  # seconds

    @staticmethod
    def at(counts: Counts, spec: GpuSpec, compulsory: float, tensor_peak: float | None = None) -> Looked:
        return Looked(counts, estimate(counts, spec, compulsory, tensor_peak))


class Ranker:
    """Predicts seconds per call. Deterministic for equal samples and seed."""

    def __init__(self, spec: GpuSpec, seed: int = 0) -> None:
        self._spec = spec
        self._model = BoostedTrees(seed=seed, floor=0.05)
        self._learned = 0

    @property
    def learned(self) -> int:
        """Measured candidates that the predictions rest on; 0 = on the guess alone."""
        return self._learned

    def learn(self, known: Sequence[tuple[Looked, float]]) -> None:
        """Take (candidate, measured seconds) of all that was measured so far; too few change nothing."""
        if len(known) < FEWEST:
            return
        features = np.array([self._features(looked) for looked, _ in known], np.float32)
        self._model.update(features, np.array([log(seconds / looked.guess) for looked, seconds in known]))
        self._learned = len(known)

    def predict(self, candidates: Sequence[Looked]) -> np.ndarray:
        """Seconds per call, ``[n]``."""
        guesses = np.array([c.guess for c in candidates])
        if not self._learned or not candidates:
            return guesses
        mean, _ = self._model.predict(np.array([self._features(c) for c in candidates], np.float32))
        return np.asarray(guesses * np.exp(mean))

    def _features(self, looked: Looked) -> list[float]:
        counts, spec = looked.counts, self._spec
        resident = resident_blocks(counts, spec)
        rounds = counts.blocks / (spec.sms * max(1, resident))
        return [
            *counts.vector(),
            log(looked.guess),
            float(resident),
            rounds,
            rounds / ceil(rounds),
            float(counts.threads % 32 == 0),
            log((1 + counts.operations) / (1 + counts.global_bytes)),
            log((1 + counts.operations) / (1 + counts.shared_bytes)),
            log((1 + counts.operations) / (counts.blocks * counts.threads)),
        ]
