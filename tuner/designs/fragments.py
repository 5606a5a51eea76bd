"""Which lane of a warp holds what of the matrices that ``mma.sync.m16n8k8`` multiplies in tf32. Knows no TVM.

From the PTX ISA, "Matrix Fragments for mma.m16n8k8": each of a warp's 32 lanes holds, in registers of 32 bits, four
elements of A (16 x 8), two of B (8 x 8) and four of C (16 x 8). Functions take integers, arrays, or TVM's expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LANES = 32  # of a warp
M, N, K = 16, 8, 8
_Map = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Fragment:
    """How one matrix lies in a warp's registers."""

    rows: int
    columns: int
    registers: int  # of a lane
    place: _Map  # (row, column) -> (lane, register)
    element: _Map  # (lane, register) -> (row, column)

    def swapped(self) -> Fragment:
        """The same registers for a matrix that is stored transposed."""

        def element(lane: Any, register: Any) -> tuple[Any, Any]:
            row, column = self.element(lane, register)
            return column, row

        return Fragment(self.columns, self.rows, self.registers, lambda i, j: self.place(j, i), element)


A = Fragment(
    M, K, 4,
    lambda i, j: (i % 8 * 4 + j % 4, j // 4 * 2 + i // 8),
    lambda lane, r: (lane // 4 + r % 2 * 8, lane % 4 + r // 2 * 4),
)  # fmt: skip
B = Fragment(
    K, N, 2,
    lambda i, j: (j * 4 + i % 4, i // 4),
    lambda lane, r: (lane % 4 + r * 4, lane // 4),
)  # fmt: skip
C = Fragment(
    M, N, 4,
    lambda i, j: (i % 8 * 4 + j // 2, i // 8 * 2 + j % 2),
    lambda lane, r: (lane // 4 + r // 2 * 8, lane % 4 * 2 + r % 2),
)  # fmt: skip
