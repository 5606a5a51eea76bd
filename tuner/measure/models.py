"""Where whole models are timed, run and profiled: the seam, and this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tuner.measure.contest import Contestant, ContestResult, TurnOptions, contest, run_once
from tuner.measure.profile import profile

Inputs = Mapping[str, np.ndarray]


class WholeModels(ABC):
    """Runs whole models on one device, each in a process of its own.

    Paths are of this machine, wherever the device is. A model that fails is a value or a CandidateError; DeviceError
    means that the device went away for good.
    """

    @abstractmethod
    def contest(
        self, contestants: Sequence[Contestant], inputs: Inputs, *, threads: int, rounds: int, seconds: float,
        options: TurnOptions, seed: int,
    ) -> ContestResult:  # fmt: skip
        """As ``tuner.measure.contest.contest``; where the device is elsewhere, standings come without outputs."""

    @abstractmethod
    def outputs(
        self, contestant: Contestant, inputs: Sequence[Inputs], threads: int
    ) -> list[dict[str, np.ndarray]]:  # fmt: skip
        """As ``tuner.measure.contest.run_once``."""

    @abstractmethod
    def profile(self, folder: Path) -> list[tuple[str, float]] | None:
        """As ``tuner.measure.profile.profile``."""


class Here(WholeModels):
    """On this machine."""

    def contest(
        self, contestants: Sequence[Contestant], inputs: Inputs, *, threads: int, rounds: int, seconds: float,
        options: TurnOptions, seed: int,
    ) -> ContestResult:  # fmt: skip
        return contest(
            contestants, inputs, threads=threads, rounds=rounds, seconds=seconds, options=options, seed=seed
        )  # fmt: skip

    def outputs(
        self, contestant: Contestant, inputs: Sequence[Inputs], threads: int
    ) -> list[dict[str, np.ndarray]]:  # fmt: skip
        return run_once(contestant, inputs, threads)

    def profile(self, folder: Path) -> list[tuple[str, float]] | None:
        return profile(folder)
