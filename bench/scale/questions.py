"""What the devices of a fleet are asked, and what they answer: simulated devices, whose measurements take time only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np

from bench.search.spaces import SimSpace, sim_space
from tuner.measure.answering import AnsweringRunner
from tuner.measure.device import devices
from tuner.plan.space import PlanSpace
from tuner.simulate.machine import noisy
from tuner.simulate.spec import SimSpec
from tuner.types import Candidate, Device, Purpose, Trial

DEVICE = "sim:mlu100"
MODEL = "5ca1e" + "0" * 59  # SHA-256 of a file that nobody has: drivers of a fleet read none
SAMPLES = 5  # of one measurement


@dataclass(frozen=True)
class Questions:
    """One model's plan space on a simulated device, with all answers. Made once, shared by all drivers."""

    model: str
    device: Device  # what the devices of a fleet are like
    spec: SimSpec
    space: PlanSpace
    features: np.ndarray  # float32 [questions, cores, columns]
    answers: Mapping[tuple[str, int], float]  # workload's hash, cores -> seconds without noise

    def answer(self, candidate: Candidate, seed: int) -> tuple[float, ...]:
        """Samples, in seconds per call."""
        truth = self.answers[candidate.workload_hash, candidate.cores]
        return noisy(truth, self.spec, candidate.key, seed, SAMPLES)

    def prepared(self, count: int, seed: int = 0) -> list[Trial]:
        """So many trials made beforehand, of different candidates in random order."""
        rows, columns = len(self.space.questions), len(self.space.cores)
        order = np.random.default_rng(seed).permutation(rows * columns)[:count]
        asked = [self.space.candidate((int(i) // columns, int(i) % columns), {}) for i in order]
        return [Trial(candidate, samples=self.answer(candidate, seed)) for candidate in asked]

    def fleet(self, count: int, first: int = 0) -> Iterator[Device]:
        """Devices of equal abilities and different fingerprints, so that no record of one answers for another."""
        for number in range(first, first + count):
            yield replace(self.device, name=f"scale-{number}", model=f"{self.device.model} number {number}")


def questions(model: str, folder: Path) -> Questions:
    """A zoo model's questions; ``folder`` keeps what takes long to make (see bench.search.spaces)."""
    device = devices(DEVICE)
    return of(sim_space(model, device, folder), device)


def of(found: SimSpace, device: Device) -> Questions:
    """The questions of a space."""
    answers = {
        (found.plans.candidate((q, 0), {}).workload_hash, cores): float(found.table[q, c])
        for q in range(len(found.plans.questions)) for c, cores in enumerate(found.plans.cores)
    }  # fmt: skip
    return Questions(found.model, device, found.spec, found.plans, found.features, answers)


class Asleep(AnsweringRunner):
    """A device that is busy for so many seconds with each candidate, and meanwhile does nothing.

    Its trials say so in ``measure_seconds``; ``over`` ends it.
    """

    def __init__(self, asked: Questions, device: Device, seconds: float, seed: int = 0, over: Event | None = None):
        super().__init__()
        self._asked, self._device, self._seconds, self._seed = asked, device, seconds, seed
        self._over = over or Event()

    def devices(self) -> tuple[Device, ...]:
        return (self._device,)

    def _answer(self, candidate: Candidate, purpose: Purpose) -> Trial:
        if self._seconds:
            time.sleep(self._seconds)
        if self._over.is_set():
            self.close()
        samples = self._asked.answer(candidate, self._seed)
        return Trial(candidate, purpose, samples=samples, measure_seconds=self._seconds)
