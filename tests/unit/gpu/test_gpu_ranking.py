"""Ranking: the guess stands until enough was measured, then the model corrects what the guess gets wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tuner.gpu.counts import Counts
from tuner.gpu.ranking import FEWEST, Looked, Ranker
from tuner.gpu.spec import GPUS

GPU = GPUS["rtx3090"]


def candidates(count: int, seed: int) -> list[Looked]:
    random = np.random.default_rng(seed)
    base = Counts(launches=1, operations=1e9, shared=8 << 10)
    found = []
    for _ in range(count):
        moved = {"global_bytes": random.uniform(1e6, 1e9), "shared_bytes": random.uniform(1e7, 1e9)}
        shape = {"blocks": int(random.integers(16, 2000)), "threads": int(32 * random.integers(1, 32))}
        found.append(Looked.at(replace(base, local=int(random.integers(1, 64)), **shape, **moved), GPU, 1e6))
    return found


def truth(looked: Looked) -> float:
    """A machine on which few threads in a block cost far more than the guess believes."""
    return looked.guess * (5.0 if looked.counts.threads < 256 else 1.2)


def test_with_nothing_measured_the_guess_stands() -> None:
    some = candidates(5, 0)
    ranker = Ranker(GPU)
    ranker.learn([(c, truth(c)) for c in candidates(FEWEST - 1, 1)])
    assert ranker.learned == 0
    assert ranker.predict(some) == pytest.approx([c.guess for c in some])


def test_what_was_measured_corrects_the_guess() -> None:
    ranker = Ranker(GPU)
    ranker.learn([(c, truth(c)) for c in candidates(200, 1)])
    assert ranker.learned == 200
    unseen = candidates(100, 2)
    real = np.array([truth(c) for c in unseen])
    off = np.abs(np.log(ranker.predict(unseen) / real))
    blind = np.abs(np.log(np.array([c.guess for c in unseen]) / real))
    assert np.median(off) < 0.2 * np.median(blind)


def test_equal_samples_give_equal_predictions() -> None:
    known = [(c, truth(c)) for c in candidates(50, 1)]
    first, second = Ranker(GPU, seed=3), Ranker(GPU, seed=3)
    first.learn(known)
    second.learn(known)
    some = candidates(20, 4)
    assert (first.predict(some) == second.predict(some)).all()
    assert len(first.predict([])) == 0
