"""A roofline whose few parameters are fitted: seconds of a block from its row of features and a Machine.

    seconds = (compute^p + memory^p)^(1/p) + launch + synchronisation(cores)

after S. Williams, A. Waterman, D. Patterson: Roofline, Communications of the ACM 52(4), 2009; p is how well the two
overlap. ``compute`` is the busiest core's work at a rate that falls for few channels and for little work, ``memory``
what passes the memory interface at the machine's bandwidth, or what one core draws at its own. A band whose inner
tensors do not fit in a core's fast memory is cut into tiles: that recomputes halo and reads weights again.

Every parameter is a positive factor with a prior: a log-normal around ``PRIOR``'s value. Parameters that the samples
say nothing about stay there, so any number of samples gives a usable fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost_model.block_features import INDEX
from cost_model.machine import Machine

# name -> (value expected before anything is measured, factor by which it may well be off)
PRIOR: Mapping[str, tuple[float, float]] = {
    "mac": (1.3, 3.0),  # seconds of a multiply-accumulate operation x one core's peak
    "vector": (1.2, 4.0),  # seconds of another operation x one core's peak of those
    "depthwise": (1.2, 4.0),  # ... of one of a depthwise convolution
    "padded": (0.2, 10.0),  # ... of one that only fills up channels
    "narrow_out": (2.0, 10.0),  # channels written at which a layer runs at half its rate
    "narrow_in": (2.0, 10.0),  # channels summed over, likewise
    "small": (1e5, 30.0),  # operations of one core's part of a layer at which it runs at half its rate
    "small_narrow": (1e5, 30.0),  # ... more, for a layer of one channel
    "halo": (0.7, 3.0),  # of recomputing halo because of tiles, against other work
    "inputs": (1.2, 2.0),  # seconds of a byte read or written x bandwidth
    "weights": (1.2, 3.0),  # ... of a weight
    "reread": (0.8, 2.0),  # of bytes that neighbouring bands both read
    "reweigh": (0.2, 10.0),  # of reading weights again for another tile
    "spill": (0.1, 10.0),  # of inner bytes beyond the fast memory, written and read
    "copies": (0.02, 10.0),  # of bytes that several cores read at the same time
    "one_core": (1.0, 2.0),  # bandwidth that one core can draw / the one known
    "capacity": (0.7, 2.5),  # of a core's fast memory that inner tensors may fill
    "room": (0.5, 3.0),  # of the weights, that claim room there too
    "launch": (5e-6, 30.0),  # seconds
    "per_layer": (3e-7, 30.0),  # seconds
    "sync_log": (1e-6, 30.0),  # seconds for each doubling of the cores
    "sync_linear": (1e-7, 30.0),  # seconds for each further core
    "sharpness": (4.0, 3.0),  # p - 1
}
NAMES = tuple(PRIOR)
_START = np.log([value for value, _ in PRIOR.values()])
_SPREAD = np.log([factor for _, factor in PRIOR.values()])
_STEP = 1e-4  # of finite differences, in log-parameters
_MOST_HALO = 0.9  # share of a tile's room that its halo may fill
_LIMIT = 6.0  # log-parameters stay so many spreads around the prior
SCATTER = 0.03  # log-seconds: residuals are counted in these against the priors
_OUTLIER = 4.0  # residuals beyond so many scatters count linearly


@dataclass(frozen=True)
class Terms:
    """What a row's time is made of, each ``[n]``, in seconds except ``tiles``."""

    compute: np.ndarray
    memory: np.ndarray
    overhead: np.ndarray  # launch and synchronisation
    tiles: np.ndarray  # that the busiest core cuts its band into, 1 or more
    seconds: np.ndarray


class Roofline:
    """Parametric times of blocks on one machine."""

    def __init__(self, machine: Machine, logs: np.ndarray | None = None) -> None:
        self.machine = machine
        self.logs = _START.copy() if logs is None else np.asarray(logs, dtype=np.float64)  # [len(NAMES)]

    @property
    def parameters(self) -> dict[str, float]:
        return dict(zip(NAMES, np.exp(self.logs).tolist(), strict=True))

    def terms(self, rows: np.ndarray | Basis) -> Terms:
        """Args: rows ``[n, len(COLUMNS)]``, or their Basis where several rooflines are asked about the same rows."""
        return _terms(rows if isinstance(rows, Basis) else Basis.of(rows), self.logs, self.machine)

    def log_seconds(self, rows: np.ndarray) -> np.ndarray:
        """``[n]``"""
        found: np.ndarray = np.log(self.terms(rows).seconds)
        return found

    def fit(self, rows: np.ndarray, log_seconds: np.ndarray, weights: np.ndarray, steps: int = 25) -> Roofline:
        """The roofline that explains these samples best, starting from this one.

        Robust nonlinear least squares on log-seconds with the priors as further residuals: Levenberg-Marquardt, where
        residuals beyond a few scatters are weighted down (Huber's loss by iterated reweighting).
        """
        basis = Basis.of(rows)

        def residuals(logs: np.ndarray) -> np.ndarray:
            found: np.ndarray = (np.log(_terms(basis, logs, self.machine).seconds) - log_seconds) / SCATTER
            return found

        def prior(logs: np.ndarray) -> np.ndarray:
            found: np.ndarray = (logs - _START) / _SPREAD
            return found

        def cost(off: np.ndarray, logs: np.ndarray) -> float:
            size = np.abs(off)
            huber = np.where(size <= _OUTLIER, size**2, _OUTLIER * (2 * size - _OUTLIER))
            return float((weights * huber).sum() + (prior(logs) ** 2).sum())

        logs, damping = self.logs.copy(), 1e-2
        off = residuals(logs)
        best = cost(off, logs)
        for _ in range(steps):
            slope = (residuals(logs + _STEP * np.eye(len(NAMES))) - off).T / _STEP  # [n, P]
            scale = weights / np.maximum(1.0, np.abs(off) / _OUTLIER)
            curve = slope.T @ (scale[:, None] * slope) + np.diag(_SPREAD**-2.0)
            down = slope.T @ (scale * off) + prior(logs) / _SPREAD
            gained = 0.0
            for _ in range(6):
                move = np.linalg.solve(curve + damping * np.diag(np.diag(curve)), -down)
                tried = np.clip(logs + np.clip(move, -2.0, 2.0), _START - _LIMIT * _SPREAD, _START + _LIMIT * _SPREAD)
                tried_off = residuals(tried)
                value = cost(tried_off, tried)
                if value < best:
                    gained, best, logs, off = best - value, value, tried, tried_off
                    damping = max(damping / 5, 1e-9)
                    break
                damping *= 6
            if gained <= 1e-4 * best:
                break
        return Roofline(self.machine, logs)

    def to_json(self) -> dict[str, Any]:
        return self.parameters

    @staticmethod
    def from_json(machine: Machine, data: Mapping[str, float]) -> Roofline:
        """Parameters that are missing keep their prior, unknown ones are dropped: versions may differ by a few."""
        logs = [np.log(data[name]) if name in data else _START[i] for i, name in enumerate(NAMES)]
        return Roofline(machine, np.asarray(logs))


@dataclass(frozen=True)
class Basis:
    """Columns of rows by name, with what does not depend on parameters computed once."""

    columns: np.ndarray  # [len(COLUMNS), n], so that each column is contiguous
    doublings: np.ndarray  # log2 of the cores

    @staticmethod
    def of(rows: np.ndarray) -> Basis:
        columns = np.ascontiguousarray(rows.T, dtype=np.float64)
        return Basis(columns, np.log2(columns[0]))

    def __getitem__(self, name: str) -> np.ndarray:
        column: np.ndarray = self.columns[INDEX[name]]
        return column


def _terms(b: Basis, logs: np.ndarray, machine: Machine) -> Terms:
    """Terms ``[..., n]`` for log-parameters ``[..., len(NAMES)]``."""
    p = dict(zip(NAMES, np.moveaxis(np.exp(logs), -1, 0)[..., None], strict=True))
    cores = b["cores"]
    free = p["capacity"] * machine.core_memory
    weights = b["core_weights"]
    # Weights take their room, but never more than half of it: what does not fit is streamed. A tile holds its halo too.
    left = free - np.minimum(p["room"] * weights, 0.5 * free)
    twice = np.minimum(b["halo_bytes"], _MOST_HALO * left)
    tiles = np.maximum(1.0, (b["held_bytes"] + b["end_bytes"] - twice) / (left - twice))
    work = (
        p["mac"] * (
            b["core_mac_ops"]
            + p["padded"] * b["core_ops_padded"]
            + p["narrow_out"] * b["core_ops_per_out"]
            + p["narrow_in"] * b["core_ops_per_in"]
            + (p["small"] * b["mac_layers"] + p["small_narrow"] * b["core_layers_per_out"]) * tiles
            + p["halo"] * (tiles - 1.0) * b["halo_ops"]
        )
        + machine.vector_cost * (p["vector"] * b["core_vector_ops"] + p["depthwise"] * b["core_depthwise_ops"])
    )  # fmt: skip
    spilled = np.maximum(0.0, b["peak_bytes"] - free) * np.minimum(cores, b["bands"] * b["parts"])
    unkept = np.maximum(0.0, 1.0 - free / np.maximum(weights, 1.0))  # share of the weights that is read for each tile
    halo = b["read_bytes"] - b["needed_bytes"]  # below 0 where narrow bands meet strides that leave rows out
    reread = np.maximum(0.0, halo) * p["reread"] + np.minimum(0.0, halo)
    again = p["reweigh"] * (tiles - 1.0) * unkept  # times that weights are read again
    more = p["reread"] * (tiles - 1.0) * b["halo_read"]  # bytes of inputs that one core reads again for its tiles
    moved = p["inputs"] * (
        b["needed_bytes"]
        + b["output_bytes"]
        + reread
        + more * b["bands"]
        + p["spill"] * spilled
        + p["copies"] * b["shared_bytes"]
    ) + p["weights"] * b["weight_bytes"] * (1.0 + again)
    drawn = p["inputs"] * (b["core_bytes"] + more) + p["weights"] * weights * again
    compute = work / machine.core_flops
    sharp = 1.0 + p["sharpness"]
    memory = _both(moved / machine.bandwidth, drawn / (machine.core_bandwidth * p["one_core"]), sharp)
    overhead = (
        p["launch"] + p["per_layer"] * b["layers"] + p["sync_log"] * b.doublings + p["sync_linear"] * (cores - 1.0)
    )
    return Terms(compute, memory, overhead, tiles, _both(compute, memory, sharp) + overhead)


def _both(a: np.ndarray, b: np.ndarray, sharp: np.ndarray) -> np.ndarray:
    """Time of two things that overlap: the longer one, and a little more where they take about as long."""
    high, low = np.maximum(a, b), np.minimum(a, b)
    found: np.ndarray = high * (1.0 + (low / np.maximum(high, 1e-30)) ** sharp) ** (1.0 / sharp)
    return found
