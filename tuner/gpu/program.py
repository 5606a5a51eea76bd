"""A lowered model as a list of kernel calls over numbered tensors: what runs a model without TVM's virtual machine.

Needs neither TVM nor a GPU. A GPU's Plan (tuner.plan.plan) is made over it: its layers are the calls, by name, under
the program's hash; a block is one call, fused as TVM fused it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from tuner.types import digest


@dataclass(frozen=True)
class Slot:
    """A tensor of the program."""

    shape: tuple[int, ...]
    dtype: str
    of: int | None = None  # the tensor whose memory it is, under another shape

    @property
    def bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Call:
    """One launch of a function of the model's library: tensors that it reads, then those that it writes."""

    symbol: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    task: str | None = None  # hash of the task, whose candidates compute the same; None: the library alone has it


@dataclass(frozen=True)
class Program:
    """Calls in an order in which they may run. All sizes are known; every tensor is written once."""

    slots: tuple[Slot, ...]
    inputs: tuple[int, ...]
    parameters: tuple[int, ...]
    constants: tuple[int, ...]  # likewise given, but no parameters of the Relax function
    outputs: tuple[int, ...]
    calls: tuple[Call, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the calls, all different: "fused_conv2d_relu", "fused_conv2d_relu#1"."""
        seen: dict[str, int] = {}
        found = []
        for call in self.calls:
            number = seen.setdefault(call.symbol, 0)
            seen[call.symbol] += 1
            found.append(f"{call.symbol}#{number}" if number else call.symbol)
        return tuple(found)

    @cached_property
    def needs(self) -> tuple[frozenset[int], ...]:
        """For each call those whose outputs it reads."""
        writer = {slot: number for number, call in enumerate(self.calls) for slot in call.writes}
        found = []
        for call in self.calls:
            roots = {self.root(slot) for slot in call.reads}
            found.append(frozenset(writer[root] for root in roots if root in writer))
        return tuple(found)

    @cached_property
    def hash(self) -> str:
        return digest(self.to_json())

    def root(self, slot: int) -> int:
        """The tensor in whose memory this one lies: itself, unless it is a view."""
        while (of := self.slots[slot].of) is not None:
            slot = of
        return slot

    def bytes(self, call: int) -> int:
        """What a call has to read and write at least."""
        return sum(self.slots[slot].bytes for slot in (*self.calls[call].reads, *self.calls[call].writes))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Program:
        def numbers(name: str) -> tuple[int, ...]:
            return tuple(data[name])

        slots = tuple(Slot(tuple(s["shape"]), s["dtype"], s["of"]) for s in data["slots"])
        calls = tuple(Call(c["symbol"], tuple(c["reads"]), tuple(c["writes"]), c["task"]) for c in data["calls"])
        return Program(
            slots, numbers("inputs"), numbers("parameters"), numbers("constants"), numbers("outputs"), calls
        )  # fmt: skip


def buffers(program: Program, stages: Sequence[Sequence[int]]) -> tuple[dict[int, int], list[int]]:
    """Pieces of memory for the tensors that calls write: the piece of each (by tensor), and the pieces' bytes.

    ``stages``: the calls that may run at the same time, in the order of stages. Tensors share a piece when no stage
    needs both; those that the program gives back are kept to the end. The largest come first, each into the first piece
    that is free for as long as it lives (greedy by size, Pisarchyk and Lee 2020, arXiv 2001.03288).
    """
    lives = _lives(program, stages)
    piece: dict[int, int] = {}
    tenants: list[list[int]] = []
    sizes: list[int] = []
    for slot in sorted(lives, key=lambda s: (-program.slots[s].bytes, s)):
        begin, end = lives[slot]
        free = (
            number for number, others in enumerate(tenants)
            if all(lives[other][1] < begin or end < lives[other][0] for other in others)
        )  # fmt: skip
        piece[slot] = number = next(free, len(tenants))
        if number == len(tenants):
            tenants.append([])
            sizes.append(max(1, program.slots[slot].bytes))
        tenants[number].append(slot)
    return piece, sizes


def _lives(program: Program, stages: Sequence[Sequence[int]]) -> dict[int, tuple[int, int]]:
    """The stages, first and last, in which each tensor that a call writes is needed."""
    when = {call: number for number, calls in enumerate(stages) for call in calls}
    last = {slot: number for call, number in when.items() for slot in program.calls[call].writes}
    first = dict(last)
    for call, number in when.items():
        for slot in program.calls[call].reads:
            if (root := program.root(slot)) in last:
                last[root] = max(last[root], number)
    for slot in program.outputs:
        if (root := program.root(slot)) in last:
            last[root] = len(stages)
    return {slot: (first[slot], last[slot]) for slot in first}


def given(program: Program) -> Iterator[int]:
    """The tensors that are there before anything runs."""
    yield from (*program.inputs, *program.parameters, *program.constants)
