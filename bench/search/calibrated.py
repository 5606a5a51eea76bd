"""The calibration of a simulated device with its default design, once per seed; kept in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.search.spaces import FEATURES, SIMULATOR, sources
from cost_model.block_features import COLUMNS
from tuner.search.calibration import designed, measure, sample_rows
from tuner.simulate.runner import runner_of
from tuner.types import Device, digest

DESIGN = "cost_model/synthetic.py"


@dataclass
class Calibrations:
    """Features and seconds of the design's samples, by seed of the noise."""

    device: Device
    folder: Path
    _rows: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def of(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Features ``[n, columns]`` and seconds ``[n]``."""
        if seed not in self._rows:
            key = digest([self.device.fingerprint, list(COLUMNS), *sources((*FEATURES, *SIMULATOR, DESIGN))])
            path = self.folder / f"calibration-{self.device.name.partition(':')[2]}-{seed}.npz"
            self._rows[seed] = self._load(path, key) or self._measure(path, key, seed)
        return self._rows[seed]

    @staticmethod
    def _load(path: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        if not path.exists():
            return None
        with np.load(path) as data:
            return (data["rows"], data["seconds"]) if str(data["key"]) == key else None

    def _measure(self, path: Path, key: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        with runner_of(self.device, seed) as runner:
            samples = list(measure(list(designed(self.device)), runner))
        rows, seconds = sample_rows(samples, self.device)
        np.savez(path, key=key, rows=rows, seconds=seconds)
        return rows, seconds
