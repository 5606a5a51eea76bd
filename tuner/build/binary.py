"""What a built kernel is, by value: the seam between building (one process) and measuring (another). Knows no TVM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.plan.layout import Pack


@dataclass(frozen=True)
class Arg:
    """One parameter of a kernel, in call order; ``shape`` is physical (what the buffer really has)."""

    name: str  # the workload's tensor or constant
    role: str  # "input", "constant" or "output"
    shape: tuple[int, ...]
    dtype: str
    layout: str = "plain"  # of inputs and outputs; constants are packed instead


@dataclass(frozen=True)
class KernelBinary:
    """A shared library with one function ``symbol(*args)`` in destination-passing style over DLTensors."""

    library: str  # path of the .so
    symbol: str
    args: tuple[Arg, ...]
    packs: Mapping[str, Pack]  # by constant name; absent = as it is

    def to_json(self) -> dict[str, Any]:
        return {
            "library": self.library,
            "symbol": self.symbol,
            "args": [[a.name, a.role, list(a.shape), a.dtype, a.layout] for a in self.args],
            "packs": {name: pack.to_json() for name, pack in self.packs.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> KernelBinary:
        return KernelBinary(
            data["library"],
            data["symbol"],
            tuple(Arg(n, role, tuple(shape), dtype, layout) for n, role, shape, dtype, layout in data["args"]),
            {name: Pack.from_json(steps) for name, steps in data["packs"].items()},
        )
