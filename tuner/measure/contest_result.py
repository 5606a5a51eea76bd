"""What a contest is between and what comes of it: contestants, turns, standings, and paired ratios of latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tuner.errors import UserError
from tuner.types import Failure

_TAIL = 0.025  # probability left out at each end of a 95% interval


@dataclass(frozen=True)
class Contestant:
    """One way to run a model.

    ``options`` by kind: "openvino" takes ``precision`` ("fp32" or "bf16") and ``config`` (its own properties by name);
    "torch" needs ``factory``, the "package.module:function" that makes the torch.nn.Module. All kinds take ``rounds``,
    the number of rounds after which the contestant is through (for the very slow).
    """

    name: str  # unique in a contest
    kind: str  # "artifact", "onnxruntime", "openvino", "torch", "tvm", or the "module:Class" of an Engine
    path: Path  # the artifact's folder, or the ONNX file
    options: Mapping[str, Any] = field(default_factory=dict)  # JSON values
    beside: tuple[str, ...] = ()  # files below the ONNX file's folder that it keeps weights in


@dataclass(frozen=True)
class Turn:
    """One contestant's calls in one round; seconds per call, in the order taken."""

    round: int
    samples: tuple[float, ...]
    disturbed: bool = False  # others used our cores meanwhile, and retaking it did not help

    @property
    def seconds(self) -> float:
        """Median seconds per call."""
        return median(self.samples)


@dataclass(frozen=True)
class Standing:
    """How one contestant did. It has turns, a failure, or both (it broke down on the way)."""

    contestant: Contestant
    turns: tuple[Turn, ...] = ()
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)  # of its first call
    load_seconds: float | None = None  # from the request to load it to the end of its first call, imports excluded
    peak_memory: int | None = None  # bytes: the most its process ever held resident
    failure: Failure | None = None

    @property
    def samples(self) -> tuple[float, ...]:
        """Seconds per call over all turns that count: the undisturbed, unless these are fewer than half."""
        return tuple(s for turn in _counting(self.turns) for s in turn.samples)

    @property
    def median(self) -> float | None:
        """Median over rounds of each round's median, in seconds; None if it never finished a turn."""
        turns = _counting(self.turns)
        return median(t.seconds for t in turns) if turns else None

    @property
    def min(self) -> float | None:
        """Fastest call in seconds; None if it never finished a turn."""
        return min((s for turn in self.turns for s in turn.samples), default=None)


@dataclass(frozen=True)
class ContestResult:
    """Standings in the order the contestants were given."""

    standings: tuple[Standing, ...]
    threads: int
    rounds: int  # completed ones

    def __getitem__(self, name: str) -> Standing:
        for standing in self.standings:
            if standing.contestant.name == name:
                return standing
        raise UserError(f"There is no contestant {name!r} in this contest.", code="unknown-contestant")


@dataclass(frozen=True)
class Ratio:
    """The other's latency over ours: above 1 we are faster. ``low`` .. ``high`` is the paired 95% interval."""

    median: float
    low: float
    high: float
    pairs: int  # rounds behind it

    def reaches(self, goal: float) -> bool:
        """Whether "at least ``goal`` times as fast" is compatible with what was measured."""
        return self.high >= goal


def ratio(result: ContestResult, ours: str, other: str) -> Ratio | None:
    """The latency of ``other`` over that of ``ours``, round by round; None if they share no round.

    Rounds in which both turns were undisturbed count, unless these are fewer than half: then all do.
    """
    mine = {t.round: t for t in result[ours].turns}
    pairs = [(mine[t.round], t) for t in result[other].turns if t.round in mine]
    clean = [(a, b) for a, b in pairs if not a.disturbed and not b.disturbed]
    counting = clean if 2 * len(clean) >= len(pairs) else pairs
    return interval([b.seconds / a.seconds for a, b in counting]) if counting else None


def fastest(result: ContestResult, names: Sequence[str]) -> str | None:
    """Of these contestants the one that beats the last of them by most, round by round; None if none was timed.

    Medians of all of a contestant's turns would compare what ran at different moments: neighbours who slow the machine
    for a while slow one contestant's turns and not another's. Where the rounds disagree about who is faster, the
    fastest calls decide, which neighbours hardly touch.
    """
    timed = {name: seconds for name in names if (seconds := result[name].median) is not None}
    if not timed:
        return None
    last = list(timed)[-1]

    def lead(name: str) -> float:
        found, own, other = ratio(result, name, last), result[name].min, result[last].min
        if found is None:
            return timed[last] / timed[name]
        if own is None or other is None or not found.low <= 1 <= found.high:
            return found.median
        return other / own

    return max(timed, key=lead)


def interval(values: Sequence[float]) -> Ratio:
    """Median of ``values`` (at least one) and its 95% confidence interval from order statistics.

    The binomial argument assumes nothing about the distribution and needs no random numbers (Conover, Practical
    Nonparametric Statistics, 3.2). Below six values no such interval exists; the whole range is then given, which
    covers the median with probability 1 - 2**(1 - n) only.
    """
    ordered = sorted(values)
    n = len(ordered)
    rank, below = 0, 1.0  # below = 2**n * P(at most `rank` of n values lie under the median)
    while below / 2**n <= _TAIL:
        rank += 1
        below += comb(n, rank)
    first = max(rank - 1, 0)
    return Ratio(median(ordered), ordered[first], ordered[n - 1 - first], n)


def _counting(turns: Sequence[Turn]) -> Sequence[Turn]:
    clean = [t for t in turns if not t.disturbed]
    return clean if 2 * len(clean) >= len(turns) else turns
