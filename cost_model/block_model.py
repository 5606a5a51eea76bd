"""How long blocks take on one machine: a fitted roofline, corrected by gradient-boosted trees, with an uncertainty.

The samples are dealt by workload into folds. Each member of the ensemble is a roofline and trees (XGBoost) that have
seen all folds but one, so that every sample has an honest prediction by a member that knew nothing of its workload.
Those errors say three things: how far the trees are to be trusted, how large the standard deviation is, and how it
grows with the distance from the nearest workload measured (cross-validation as in jackknife+, Barber et al. 2021).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xgboost

from cost_model.block_features import COLUMNS, INDEX, STATIC
from cost_model.machine import Machine
from cost_model.roofline import SCATTER, Basis, Roofline, Terms
from cost_model.uncertainty import Spread

VERSION = 2  # of what to_json writes, and of what it was learned from
FOLDS = 4
RELATIVE = 0.3  # weight of a sample of another machine, unless the caller gives weights
_FEWEST = 3 * FOLDS  # workloads, below which there are no trees
_ROUNDS = 40
_AT_ONCE = 8192  # rows predicted together: their arrays stay in a core's cache
_TREES = {
    "max_depth": 4, "eta": 0.15, "min_child_weight": 2, "subsample": 0.8, "colsample_bynode": 0.6, "lambda": 1.0,
    "tree_method": "hist", "max_bin": 64, "nthread": 1, "verbosity": 0,
}  # fmt: skip


@dataclass
class _Member:
    roofline: Roofline
    trees: xgboost.Booster | None = None


@dataclass
class BlockModel:
    """Learns log-seconds from rows of features (block_features.COLUMNS).

    Deterministic for equal calls. Before the first fit it answers with the roofline of the machine's facts alone and a
    wide standard deviation.
    """

    machine: Machine
    seed: int = 0
    samples: int = 0  # that the last fit learned from, relatives' included
    offsets: dict[int, float] = field(default_factory=dict)  # group -> its log-seconds less this machine's
    trust: float = 0.0  # share of the trees' correction that is applied
    _members: list[_Member] = field(default_factory=list)
    _spread: Spread = field(default_factory=Spread)
    held_out: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))  # [n, 2] (error, std) of own samples

    @property
    def trained(self) -> bool:
        return bool(self._members)

    @property
    def roofline(self) -> Roofline:
        """The fitted roofline (the geometric mean of the members' parameters)."""
        if not self._members:
            return Roofline(self.machine)
        return Roofline(self.machine, np.mean([m.roofline.logs for m in self._members], axis=0))

    def fit(
        self, rows: np.ndarray, seconds: np.ndarray, weights: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Forget what was learned and learn from these samples.

        Args:
            rows: ``[n, len(COLUMNS)]``.
            seconds: ``[n]``; samples that are not finite and positive (unknown, failed) are left out.
            weights: ``[n]``, 1 = as good as a sample of this machine.
            groups: ``[n]`` 0 = this machine, others = relatives: each gets a constant factor of its own.
        """
        good = np.isfinite(seconds) & (seconds > 0)
        groups = np.zeros(len(seconds), dtype=int) if groups is None else np.asarray(groups)
        weights = np.where(groups == 0, 1.0, RELATIVE) if weights is None else np.asarray(weights, dtype=np.float64)
        rows, groups, weights = rows[good], groups[good], weights[good]
        logs = np.log(np.asarray(seconds, dtype=np.float64)[good])
        self.samples, self._members, self.offsets, self.trust = len(rows), [], {}, 0.0
        self._spread, self.held_out = Spread(), np.zeros((0, 2))
        if not len(rows):
            return
        start = Roofline(self.machine).fit(rows, logs, weights * (groups == 0))
        self.offsets = _offsets(start, rows, logs, groups)
        logs = logs - np.asarray([self.offsets.get(int(g), 0.0) for g in groups])
        self._learn(start, rows, logs, weights, groups == 0)

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean log-seconds, standard deviation), each ``[n]``."""
        if len(rows) > _AT_ONCE:
            found = [self.predict(rows[i : i + _AT_ONCE]) for i in range(0, len(rows), _AT_ONCE)]
            return np.concatenate([m for m, _ in found]), np.concatenate([s for _, s in found])
        basis = Basis.of(rows)
        terms = self.roofline.terms(basis)
        if not self._members:
            return np.log(terms.seconds), self._spread.at(rows, terms)
        shared, total = _logs(rows), np.zeros(len(rows))
        for member in self._members:
            base, inputs = _inputs(member.roofline.terms(basis), rows, shared)
            total += base
            if member.trees is not None and self.trust > 0.0:
                total += self.trust * member.trees.inplace_predict(inputs)
        return total / len(self._members), self._spread.at(rows, terms)

    def _learn(self, start: Roofline, rows: np.ndarray, logs: np.ndarray, weights: np.ndarray, own: np.ndarray) -> None:
        """Train the members; ``logs`` are free of offsets."""
        workload = workloads_of(rows)
        count = int(workload.max()) + 1
        start = start.fit(rows, logs, weights)
        if count < 2:
            self._members = [_Member(start)]
            return
        folds = min(FOLDS, count)
        fold = np.random.default_rng(self.seed).permutation(count)[workload] % folds
        shared = _logs(rows)
        base, correction = np.zeros(len(rows)), np.zeros(len(rows))
        for number in range(folds):
            out = fold == number
            seen = ~out
            roofline = start.fit(rows[seen], logs[seen], weights[seen], steps=4)
            expected, inputs = _inputs(roofline.terms(rows), rows, shared)
            member = _Member(roofline)
            if count >= _FEWEST:
                member.trees = _grow(inputs[seen], logs[seen] - expected[seen], weights[seen], self.seed + number)
                correction[out] = member.trees.inplace_predict(inputs[out])
            base[out] = expected[out]
            self._members.append(member)
        self.trust = _trust(logs - base, correction, weights)
        error = logs - base - self.trust * correction
        if own.any():
            self._spread, std = Spread.fit(rows[own], self.roofline.terms(rows[own]), error[own], fold[own])
            self.held_out = np.stack([error[own], std], axis=1)

    # saving -----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """All that predictions need, as JSON values."""
        return {
            "version": VERSION,
            "columns": list(COLUMNS),
            "machine": self.machine.to_json(),
            "seed": self.seed,
            "samples": self.samples,
            "offsets": {str(group): offset for group, offset in self.offsets.items()},
            "trust": self.trust,
            "members": [
                {
                    "roofline": m.roofline.to_json(),
                    "trees": json.loads(m.trees.save_raw("json").decode()) if m.trees is not None else None,
                }
                for m in self._members
            ],
            "spread": self._spread.to_json(),
            "held_out": self.held_out.tolist(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> BlockModel:
        """Raises ValueError when it was written by another version: train anew."""
        if data.get("version") != VERSION or tuple(data.get("columns", ())) != COLUMNS:
            raise ValueError(f"a block model of version {data.get('version')} cannot be read by version {VERSION}")
        machine = Machine.from_json(data["machine"])
        members = []
        for each in data["members"]:
            trees = None
            if each["trees"] is not None:
                trees = xgboost.Booster({"nthread": 1, "verbosity": 0})
                trees.load_model(bytearray(json.dumps(each["trees"]).encode()))
            members.append(_Member(Roofline.from_json(machine, each["roofline"]), trees))
        return BlockModel(
            machine, data["seed"], data["samples"], {int(k): v for k, v in data["offsets"].items()}, data["trust"],
            members, Spread.from_json(data["spread"]), np.asarray(data["held_out"]).reshape(-1, 2),
        )  # fmt: skip


def workloads_of(rows: np.ndarray) -> np.ndarray:
    """Number of each row's workload, 0 and up: rows that differ in cores alone are of one workload."""
    return np.unique(rows[:, STATIC].astype(np.float32), axis=0, return_inverse=True)[1].reshape(-1)


def _offsets(start: Roofline, rows: np.ndarray, logs: np.ndarray, groups: np.ndarray) -> dict[int, float]:
    """By how much each relative is slower, in log-seconds: the median error of our roofline there, shrunk for few."""
    error = logs - start.log_seconds(rows)
    found = {}
    for group in sorted(set(groups.tolist()) - {0}):
        count = int((groups == group).sum())
        found[int(group)] = float(np.median(error[groups == group])) * count / (count + 1.0)
    return found


def _logs(rows: np.ndarray) -> np.ndarray:
    """What trees see of the rows themselves: logarithms, float32."""
    return np.log1p(rows.astype(np.float32))


def _inputs(terms: Terms, rows: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log-seconds by the roofline, what the trees see: the row, and what the roofline makes of it)."""
    base = np.log(terms.seconds)
    made = np.stack(
        [
            base,
            np.log(np.maximum(terms.compute, 1e-12) / terms.memory),
            terms.overhead / terms.seconds,
            np.log(terms.tiles),
            np.log1p(rows[:, INDEX["core_ops"]] / np.maximum(rows[:, INDEX["layers"]], 1)),
        ],
        axis=1,
    ).astype(np.float32)
    return base, np.concatenate([shared, made], axis=1)


def _grow(inputs: np.ndarray, errors: np.ndarray, weights: np.ndarray, seed: int) -> xgboost.Booster:
    matrix = xgboost.DMatrix(inputs, np.clip(errors, -1.0, 1.0), weight=weights, nthread=1)
    return xgboost.train(_TREES | {"seed": seed, "base_score": 0.0}, matrix, _ROUNDS)


def _trust(errors: np.ndarray, correction: np.ndarray, weights: np.ndarray) -> float:
    """The share of the correction that explains most of the errors on what its member had not seen: 0 to 1."""
    clipped = np.clip(errors, -8 * SCATTER - np.abs(correction), 8 * SCATTER + np.abs(correction))
    power = float((weights * correction**2).sum())
    return float(np.clip((weights * clipped * correction).sum() / power, 0.0, 1.0)) if power > 0 else 0.0
