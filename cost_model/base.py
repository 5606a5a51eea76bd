"""The CostModel seam."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class CostModel(ABC):
    """Learns log-times from samples.

    Contract: deterministic for equal sequences of calls. Features are float arrays ``[samples, columns]``, where NaN
    means "does not apply"; targets are natural logarithms of seconds (or of any fixed multiple of them).
    """

    @abstractmethod
    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation) of the target, each ``[samples]``. Before the first update: zeros and ones."""

    @abstractmethod
    def update(self, features: np.ndarray, targets: np.ndarray) -> None:
        """Forget what was learned and learn from these samples (all known ones, not only the new)."""
