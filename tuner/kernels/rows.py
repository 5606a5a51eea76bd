"""Rows of numbers walked a vector at a time, whatever their length, and sums over a vector's lanes.

Where a row does not fill its last vector, that vector begins earlier and overlaps the one before: every load and store
is a whole vector, and nothing beyond the row is touched. What overlaps is computed twice, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

Expr = Any  # int or tirx expression


@dataclass(frozen=True)
class Row:
    """``columns`` numbers in ``steps`` vectors of ``width`` lanes."""

    columns: int
    width: int

    @staticmethod
    def of(columns: int, lanes: int) -> Row:
        """With vectors as wide as the processor's, or the widest power of two that the row fills."""
        width = lanes
        while width > columns:
            width //= 2
        return Row(columns, width)

    @property
    def steps(self) -> int:
        return -(-self.columns // self.width)

    @property
    def even(self) -> bool:
        """Whether no vector overlaps another."""
        return self.columns % self.width == 0

    def start(self, step: Expr) -> Expr:
        """First column of a vector; steps beyond the last repeat it."""
        return tirx.min(step * self.width, self.columns - self.width)

    def column(self, step: Expr, lane: Expr) -> Expr:
        """For 0 <= step < steps."""
        return step * self.width + lane if self.even else self.start(step) + lane

    def once(self, step: Expr, lane: Expr, value: Expr) -> Expr:
        """``value``, but zero in lanes that the vector before has as well."""
        if self.even:
            return value
        return tirx.Select(self.column(step, lane) >= step * self.width, value, tirx.const(0, "float32"))


def tree(combine: Callable[[Expr, Expr], Expr], values: Sequence[Expr]) -> Expr:
    """All values combined in pairs, pairs of pairs and so on: as deep as the logarithm of their number."""
    values = list(values)
    while len(values) > 1:
        pairs = [combine(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


def lane_reduction(sch: Any, name: str) -> None:
    """Schedule a stage ``[row, lane]`` that reduces over one axis: steps outside, lanes in one vector."""
    *_, lane, step = sch.get_loops(name)
    sch.reorder(step, lane)
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(name, step))[-1])


def unflatten(position: Expr, dims: Sequence[int]) -> tuple[Any, ...]:
    """Indices of ``dims`` from a row-major position."""
    index: list[Any] = []
    inner = 1
    for place in reversed(range(len(dims))):
        extent = dims[place]
        value = position // inner if inner > 1 else position
        index.append(tirx.const(0, "int32") if extent == 1 else value % extent if place else value)
        inner *= extent
    return tuple(reversed(index))


def flatten(index: Sequence[Any], dims: Sequence[int]) -> Any:
    """Row-major position of ``index`` in ``dims``."""
    position: Any = 0
    for place, i in enumerate(index):
        position = position * dims[place] + i
    return position
