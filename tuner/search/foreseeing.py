"""How long whole models should take, told from what is known of their blocks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from statistics import median

from tuner.plan.plan import Plan
from tuner.precision import BF16, precision_of
from tuner.search.lowering import streams
from tuner.search.questions import Asked, Question
from tuner.types import Device


@dataclass(frozen=True)
class Foreseen:
    """How long whole models should take, told from their blocks before the tuned one is built."""

    blocks: float  # of the plan found, with its best kernels, one after the other
    default: float | None  # the same of the plan begun with, with its default kernels; None while one is unknown
    whole: float | None = None  # of the plan begun with as a whole, timed before the search

    @property
    def seconds(self) -> float:
        """Of the plan found as a whole.

        What a whole takes beyond its blocks (the calls themselves, and caches and memory that others use as well) it
        is supposed to take as the plan begun with does, if that is known.
        """
        beyond = 1.0 if self.default is None or self.whole is None else self.whole / self.default
        return self.blocks * beyond

    @property
    def over_default(self) -> float | None:
        """How many times faster the plan found should be."""
        return None if self.default is None else self.default / self.blocks


@dataclass(frozen=True)
class MemoryRate:
    """How fast blocks that are bound by reading weights from memory read them in this job.

    Memory is shared: at some moments its other users leave half as much again of it as at most others. Of many kernels
    that all wait for it, the fastest is the one that had such a moment; the whole has none to speak of.
    """

    bytes_per_second: float  # infinite where no block is known to be so
    least: int  # bytes of weights from which a block is

    def seconds(self, question: Question, template: str, seconds: float) -> float:
        """What a block takes whose kernel once took ``seconds``."""
        return max(seconds, _streamed(question, template, self.least) / self.bytes_per_second)


def memory_rate(asked: Collection[Question], device: Device) -> MemoryRate:
    """From all kernels of blocks whose weights outgrow the last-level cache, on the cores that answer them."""
    rates: list[float] = []
    for question in {id(q): q for q in asked}.values():
        answering = question.answer().cores
        for (name, cores), search in question.searches.items():
            weights = _streamed(question, name, device.l3) if cores == answering else 0
            rates += [weights / seconds for seconds in search.results.values() if weights and seconds]
    return MemoryRate(median(rates) if rates else inf, device.l3)


def _streamed(question: Question, template: str, least: int) -> int:
    """Bytes of weights that a kernel reads from memory and that decide what it takes; 0 where they do not."""
    stored = 2 if precision_of(template) == BF16 else 1
    weights = sum(constant.bytes for constant in question.workload.constants.values()) // stored
    return weights if weights > least and streams(question.workload) else 0


def known_seconds(asked: Asked, rate: MemoryRate) -> float | None:
    """Seconds of a plan's blocks with the best that is known, one after the other; None while one is unknown."""
    total = 0.0
    for question in asked.values():
        best = question.answer()
        if best.seconds is None:
            return None
        total += rate.seconds(question, best.template, best.seconds)
    return total


def default_seconds(plan: Plan, asked: Asked, rate: MemoryRate) -> float | None:
    """Seconds of a plan's blocks as planned, with the knobs given or the templates' default ones, one after the other.

    A block that was not measured on its planned cores counts with what it takes on others. None while one is unknown.
    """
    total = 0.0
    for block in plan.blocks:
        question = asked.get(block.layers)
        if question is None:
            continue
        first = question.unmeasured()
        knobs, template = (block.knobs, block.template) if block.knobs else (first.knobs, first.template)
        known = {c: s.seconds(knobs) for (name, c), s in question.searches.items() if name == template}
        seconds = known.get(block.cores) or min((s for s in known.values() if s is not None), default=None)
        if seconds is None:
            return None
        total += rate.seconds(question, template, seconds)
    return total
