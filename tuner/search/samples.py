"""What the block model learns from before a job measures anything: calibration, earlier jobs, kindred devices.

What the search needs is how long a block takes once its knobs were searched. That is what earlier jobs know: the best
time of each block that they measured. A calibration measures default knobs; its times are divided by what searching
gained on this device, the typical quotient of a question's first time and its best, so far as jobs have shown one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log
from statistics import median
from typing import Any, Protocol

import numpy as np

from cost_model.block_features import COLUMNS
from cost_model.block_model import RELATIVE
from tuner.graph.ir import Graph
from tuner.search.blocks import block_rows
from tuner.search.calibration import CalibrationStore, Sample, place, sample_rows
from tuner.types import Device, Purpose

MOST = 800  # samples learned from, this device's first: the model learns anew every few measurements
QUESTIONS = 500  # newest of the device's
RELATIVES = 3  # other devices that are learned from
OF_EACH = 100  # newest questions of each of them, and samples of its calibration
SEARCHED = 4  # successful trials of a question from which on its knobs count as searched
DOUBT = 3  # questions of a template of which the gain is halved
DEFAULT = 0.5  # weight of a time with default knobs, once it is known what searching gains


@dataclass(frozen=True)
class Samples:
    """Rows of features with the seconds that they took; what ``BlockModel.fit`` learns from."""

    rows: np.ndarray  # [n, len(COLUMNS)]
    seconds: np.ndarray  # [n]
    weights: np.ndarray  # [n] 1 = as good as one that the job measures itself
    groups: np.ndarray  # [n] 0 = this device, others = its relatives

    def __len__(self) -> int:
        return len(self.seconds)

    def first(self, count: int) -> Samples:
        """At most so many."""
        return Samples(self.rows[:count], self.seconds[:count], self.weights[:count], self.groups[:count])

    @staticmethod
    def of(rows: np.ndarray, seconds: np.ndarray, weight: float = 1.0) -> Samples:
        """Samples of this device that all count the same."""
        return Samples(rows, seconds, np.full(len(seconds), weight), np.zeros(len(seconds), dtype=int))

    @staticmethod
    def joined(parts: Sequence[Samples]) -> Samples:
        """All of them, one after the other."""
        if not parts:
            return Samples.of(np.zeros((0, len(COLUMNS))), np.zeros(0))
        found = [(p.rows, p.seconds, p.weights, p.groups) for p in parts]
        return Samples(*(np.concatenate(column) for column in zip(*found, strict=True)))


class Block(Protocol):
    """One question that a device answered; ``db.blocks.MeasuredBlock``."""

    @property
    def workload(self) -> Mapping[str, Any]: ...
    @property
    def workload_hash(self) -> str: ...
    @property
    def layouts(self) -> Mapping[str, str]: ...
    @property
    def template(self) -> str: ...
    @property
    def cores(self) -> int: ...
    @property
    def residency(self) -> str: ...
    @property
    def first(self) -> float: ...  # seconds of its first trial
    @property
    def purpose(self) -> Purpose: ...  # of that trial
    @property
    def best(self) -> float: ...  # seconds of its fastest trial
    @property
    def tried(self) -> int: ...  # successful trials


class _Blocks(Protocol):
    def newest(self, device: str, toolchain: str, limit: int) -> Sequence[Block]: ...


class SampleStore(CalibrationStore, Protocol):
    """What ``db.Store`` has of this."""

    @property
    def blocks(self) -> _Blocks: ...


@dataclass(frozen=True)
class _Answer:
    """The best of all templates for one (workload, layouts, cores, residency)."""

    block: Block  # the template tried first, which is the planned one
    best: float  # seconds, by any template
    tried: int  # successful trials of all templates

    @property
    def default_alone(self) -> bool:
        """Whether nothing but the template's default knobs was tried."""
        return self.tried == 1 and self.block.purpose is Purpose.SEARCH

    @property
    def gain(self) -> float | None:
        """By how much searching was faster than the default knobs, in log-seconds; None if that is not known."""
        if self.tried < SEARCHED or self.block.purpose is not Purpose.SEARCH:
            return None
        return log(self.block.first / self.best)


@dataclass(frozen=True)
class Gain:
    """What searching the knobs gains on a device, in log-seconds, by template; nothing where nobody searched."""

    by_template: Mapping[str, float]

    @property
    def known(self) -> bool:
        return bool(self.by_template)

    def of(self, template: str) -> float:
        return self.by_template.get(template, 0.0)

    @staticmethod
    def among(found: Iterable[tuple[str, float]]) -> Gain:
        """From (template, gain) of questions: the medians, smaller where they stand on few.

        Questions are searched because much is hoped for there, so that what few of them gained is more than others do.
        """
        pairs = sorted(found)
        grouped = {t: [gain for _, gain in group] for t, group in groupby(pairs, key=lambda pair: pair[0])}
        return Gain({t: median(gains) * len(gains) / (len(gains) + DOUBT) for t, gains in grouped.items()})


def load_samples(store: SampleStore, device: Device) -> Samples | None:
    """All that is known of the device and its relatives; None without anything."""
    parts = [_of_device(store, device, QUESTIONS, None)]
    for number, other in enumerate(relatives(store, device), start=1):
        found = _of_device(store, other, OF_EACH, OF_EACH)
        groups = np.full(len(found), number)
        parts.append(Samples(found.rows, found.seconds, found.weights * RELATIVE, groups))
    joined = Samples.joined(parts)
    return joined.first(MOST) if len(joined) else None


def relatives(store: SampleStore, device: Device) -> list[Device]:
    """Other devices of its kind, the most similar first: same processor, same vectors, most in common of the ISA.

    A simulated device has none: its machine is its own.
    """
    if device.simulated:
        return []
    others = {known.device.fingerprint: known.device for known in store.devices.list()}
    kin = [
        d for f, d in others.items() if f != device.fingerprint and d.kind == device.kind and not d.simulated
    ]  # fmt: skip

    def distance(other: Device) -> tuple[Any, ...]:
        shared = len({*other.features} & {*device.features})
        apart = abs(log(other.cores / device.cores))
        return other.mcpu != device.mcpu, other.lanes != device.lanes, -shared, apart, other.fingerprint

    return sorted(kin, key=distance)[:RELATIVES]


def _of_device(store: SampleStore, device: Device, questions: int, calibrated: int | None) -> Samples:
    """What is known of one device, as samples of group 0; at most so many of its calibration."""
    answers = _answers(store.blocks.newest(device.fingerprint, place(device), questions))
    pairs = [(a.block.template, a.gain) for a in answers]
    gain = Gain({}) if device.simulated else Gain.among((t, g) for t, g in pairs if g is not None)
    parts = [_block_samples(answers, device, gain)]
    found = store.calibrations.get(device.fingerprint, place(device))
    if found is not None:
        samples = [Sample.from_json(s) for s in found.samples[:calibrated]]
        rows, seconds = sample_rows(samples, device)
        gains = np.array([gain.of(s.template) for s in samples if s.seconds is not None])
        parts.append(Samples.of(rows, seconds * np.exp(-gains), DEFAULT if gain.known else 1.0))
    return Samples.joined(parts)


def _answers(blocks: Iterable[Block]) -> list[_Answer]:
    """In the order in which they were first answered."""
    found: dict[tuple[Any, ...], _Answer] = {}
    for block in blocks:
        key = (block.workload_hash, tuple(sorted(block.layouts.items())), block.cores, block.residency)
        known = found.get(key)
        if known is None:
            found[key] = _Answer(block, block.best, block.tried)
        else:
            found[key] = _Answer(known.block, min(known.best, block.best), known.tried + block.tried)
    return list(found.values())


def _block_samples(answers: Sequence[_Answer], device: Device, gain: Gain) -> Samples:
    graphs: dict[str, Graph] = {}
    parts = []
    for answer in answers:
        block = answer.block
        if block.workload_hash not in graphs:
            graphs[block.workload_hash] = Graph.from_json(block.workload)
        rows = block_rows(
            graphs[block.workload_hash], [block.cores], device, layouts=block.layouts, template=block.template
        )
        converted = gain.known and answer.default_alone
        seconds = answer.best * np.exp(-gain.of(block.template)) if converted else answer.best
        parts.append(Samples.of(rows, np.array([seconds]), DEFAULT if converted else 1.0))
    return Samples.joined(parts)
