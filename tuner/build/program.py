"""The running order of an assembled model, before memory is given out: values and what makes them. Knows no TVM.

What functions and expressions are is left to whoever emits the program (``tuner.build.emit``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor at run time; ``shape`` is physical. Two values are equal only if they are one."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return int(prod(self.shape) * np.dtype(self.dtype).itemsize)


@dataclass(frozen=True, eq=False)
class Given:
    """A model's input or an embedded constant: memory that is there already."""

    expression: Any
    out: Value


@dataclass(frozen=True, eq=False)
class Load:
    """A packed constant, by its position among the parameters."""

    parameter: int
    out: Value


@dataclass(frozen=True, eq=False)
class Call:
    """One kernel in destination-passing style: ``out`` is written to memory that the plan gives it."""

    symbol: str
    args: tuple[Value, ...]
    out: Value


@dataclass(frozen=True, eq=False)
class View:
    """Other names for the same memory."""

    source: Value
    out: Value


@dataclass(frozen=True, eq=False)
class Foreign:
    """A function that finds its own memory; its results may be its arguments' memory.

    ``emit(builder, args)`` gives one expression for each of ``outs``.
    """

    emit: Callable[[Any, Sequence[Any]], Sequence[Any]]
    args: tuple[Value, ...]
    outs: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Join:
    """Parts that lie one behind the other in ``out``'s memory, written there by what makes them. No code."""

    parts: tuple[Value, ...]
    out: Value


@dataclass(frozen=True, eq=False)
class Slice:
    """What lies in ``source``, which a kernel or a join makes, from ``offset`` bytes on. No code."""

    source: Value
    offset: int
    out: Value


@dataclass(frozen=True, eq=False)
class Lane:
    """Calls that one after the other run on some cores; several on one core alone."""

    calls: tuple[Call, ...]
    cores: int


@dataclass(frozen=True, eq=False)
class Together:
    """Lanes that run at the same time; all that they write is there when all have ended."""

    symbol: str
    lanes: tuple[Lane, ...]

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(call for lane in self.lanes for call in lane.calls)


Op = Given | Load | Call | View | Foreign | Join | Slice | Together


@dataclass
class Program:
    """Ops in running order and the values that the model returns."""

    ops: list[Op] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)

    def places(self, value: Value) -> bool:
        """Whether the memory of a value is planned: parts of it can be named."""
        return any(value in placed(op) for op in self.ops)


def placed(op: Op) -> tuple[Value, ...]:
    """The values of an op whose memory is planned."""
    if isinstance(op, Together):
        return tuple(call.out for call in op.calls)
    return (op.out,) if isinstance(op, Call | Join | Slice) else ()


def written(op: Op) -> tuple[Value, ...]:
    """The values that an op's kernels write."""
    return placed(op) if isinstance(op, Call | Together) else ()
