"""How wrong a prediction may be: a standard deviation that depends on the kind of block and on what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cost_model.block_features import INDEX, STATIC
from cost_model.roofline import Terms

WIDE = 0.7  # log-seconds: before anything was measured
FLOOR = 0.003  # log-seconds
_OUTLIER = 5.0  # robust deviations: errors beyond count as so large, or the few worst would widen all the others
_NAMES = ("layers", "mac_layers", "windows", "ops", "mac_ops", "rows", "out_channels", "wide_out", "wide_in",
          "input_bytes", "output_bytes", "weight_bytes", "inner_bytes", "template")  # fmt: skip
_WHERE = [INDEX[name] for name in _NAMES]
# What the logarithm of the standard deviation is linear in, and what is expected of it before there are errors.
_TRAITS = ("one", "distance", "overhead", "memory", "balance", "tiles", "cores", "recomputed", "parts", "depthwise")
_EXPECTED = np.array([np.log(0.15), 0.7, *[0.0] * 8])
_CERTAINTY = np.array([3.0, 8.0, *[4.0] * 8])  # in samples, about


@dataclass
class Spread:
    """std = exp(traits . slopes); the distance among them is that to the nearest workload measured."""

    slopes: np.ndarray = field(default_factory=lambda: np.eye(len(_TRAITS))[0] * np.log(WIDE))  # [len(_TRAITS)]
    scale: np.ndarray = field(default_factory=lambda: np.ones(len(_WHERE)))  # one unit of distance along each column
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, len(_WHERE))))  # [workloads, columns] measured

    @staticmethod
    def fit(rows: np.ndarray, terms: Terms, errors: np.ndarray, fold: np.ndarray) -> tuple[Spread, np.ndarray]:
        """The most likely spread, and the standard deviation ``[n]`` of these samples as if their fold was not known.

        Args:
            terms: the roofline's of these rows.
            errors: ``[n]`` of predictions by members that had not seen the sample's fold, in log-seconds.
            fold: ``[n]`` each sample's.
        """
        logs = np.log1p(rows[:, _WHERE])
        scale = np.maximum(logs.std(axis=0), 0.5)
        places = logs / scale
        away = np.zeros(len(rows))
        for number in np.unique(fold):
            others = np.unique(places[fold != number], axis=0)
            if len(others):
                away[fold == number] = _nearest(places[fold == number], others)
        traits = _traits(rows, terms, away)
        typical = 1.4826 * float(np.median(np.abs(errors)))  # the deviation, if errors were normal
        slopes = _likeliest(np.minimum(np.abs(errors), max(_OUTLIER * typical, FLOOR)), traits)
        return Spread(slopes, scale, np.unique(places, axis=0)), _std(traits, slopes)

    def at(self, rows: np.ndarray, terms: Terms) -> np.ndarray:
        """Standard deviation of log-seconds, ``[n]``."""
        if not len(self.points):
            return np.full(len(rows), float(np.exp(self.slopes[0])))
        # Rows of one block come together: each block is looked up once.
        fresh = np.ones(len(rows), dtype=bool)
        fresh[1:] = (rows[1:, STATIC] != rows[:-1, STATIC]).any(axis=1)
        away = _nearest(np.log1p(rows[fresh][:, _WHERE]) / self.scale, self.points)
        return _std(_traits(rows, terms, away[np.cumsum(fresh) - 1]), self.slopes)

    def to_json(self) -> dict[str, Any]:
        return {"slopes": self.slopes.tolist(), "scale": self.scale.tolist(), "points": self.points.tolist()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Spread:
        points = np.asarray(data["points"], dtype=np.float64).reshape(-1, len(_WHERE))
        return Spread(np.asarray(data["slopes"]), np.asarray(data["scale"]), points)


def _traits(rows: np.ndarray, terms: Terms, away: np.ndarray) -> np.ndarray:
    """``[n, len(_TRAITS)]``, each of the order of one."""
    busy = terms.compute + terms.memory
    memory = terms.memory / busy
    return np.stack(
        [
            np.ones(len(rows)), np.minimum(away, 2.0), terms.overhead / terms.seconds, memory,
            4 * memory * (1 - memory), np.minimum(np.log2(terms.tiles), 4.0) / 4, np.log2(rows[:, INDEX["cores"]]) / 5,
            np.clip(rows[:, INDEX["all_ops"]] / np.maximum(rows[:, INDEX["ops"]], 1.0) - 1.0, 0.0, 2.0) / 2,
            np.log2(rows[:, INDEX["parts"]]) / 5,
            rows[:, INDEX["core_depthwise_ops"]] > 0,
        ],
        axis=1,
    )  # fmt: skip


def _std(traits: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.clip(np.exp(traits @ slopes), FLOOR, WIDE)
    return found


def _nearest(places: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance from each place to the nearest point, a root mean square over columns."""
    squares = (places**2).sum(axis=1)[:, None] + (points**2).sum(axis=1)[None, :] - 2.0 * places @ points.T
    found: np.ndarray = np.sqrt(np.maximum(squares.min(axis=1), 0.0) / places.shape[1])
    return found


def _likeliest(errors: np.ndarray, traits: np.ndarray) -> np.ndarray:
    """Slopes of greatest likelihood for normal errors, given what is expected: Newton's method with short steps."""
    slopes = _EXPECTED.copy()
    for _ in range(30):
        scaled = np.clip((errors / np.exp(traits @ slopes)) ** 2, 0.0, 1e4)
        down = traits.T @ (scaled - 1.0) - _CERTAINTY * (slopes - _EXPECTED)
        curve = traits.T @ ((2.0 * scaled + 0.5)[:, None] * traits) + np.diag(_CERTAINTY)
        move = np.linalg.solve(curve, down)
        slopes = slopes + np.clip(move, -1.0, 1.0)
        if np.abs(move).max() < 1e-4:
            break
    return slopes
