"""The sampling instructions of a trace as named parameters, each a number that stands for one decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from optuna.distributions import IntDistribution

TILE, CHOICE, PLACE = "SamplePerfectTile", "SampleCategorical", "SampleComputeLocation"
_NAMES = {TILE: "tile", CHOICE: "choice", PLACE: "place"}
_PLACES = range(-2, 24)  # -1: at the root, -2: inlined, else the loop's number; TVM takes the nearest possible one


@dataclass(frozen=True)
class Parameter:
    """One sampling instruction. ``values[k]`` is the decision that the number k stands for."""

    name: str  # "tile0", "choice2", "place1": by kind, in the trace's order
    kind: str  # TVM's name of the instruction
    values: Sequence[Any]  # factors from outermost to innermost; index into the candidates; place of computation

    @property
    def distribution(self) -> IntDistribution:
        return IntDistribution(0, len(self.values) - 1)

    def number(self, decision: Any) -> int:
        """The number that stands for a decision as a trace holds it. Raises ValueError for one that none does."""
        if self.kind == TILE:
            return self.values.index(tuple(int(x) for x in decision))
        return self.values.index(int(decision))


def parameters_of(trace: Any) -> dict[str, tuple[Parameter, Any]]:
    """Name -> (parameter, instruction) of every sampling instruction of a trace, in order."""
    found: dict[str, tuple[Parameter, Any]] = {}
    counts = dict.fromkeys(_NAMES, 0)
    for inst in trace.insts:
        kind = str(inst.kind.name)
        if not kind.startswith("Sample"):
            continue
        if kind not in _NAMES:
            raise NotImplementedError(f"MetaSchedule's {kind} is not known here")
        name = f"{_NAMES[kind]}{counts[kind]}"
        counts[kind] += 1
        found[name] = Parameter(name, kind, _values(inst, trace)), inst
    return found


def _values(inst: Any, trace: Any) -> Sequence[Any]:
    kind = str(inst.kind.name)
    if kind == TILE:
        parts, innermost = int(inst.attrs[0]), int(inst.attrs[1])
        extent = prod(int(x) for x in trace.decisions[inst])
        fitting = tuple(f for f in factorisations(extent, parts) if f[-1] <= innermost)
        return fitting or factorisations(extent, parts)  # as TVM does where nothing fits
    return range(len(inst.attrs[0])) if kind == CHOICE else _PLACES


@lru_cache(maxsize=4096)
def factorisations(extent: int, parts: int) -> tuple[tuple[int, ...], ...]:
    """All ways to write ``extent`` as an ordered product of ``parts`` factors, in lexicographic order."""
    if parts == 1:
        return ((extent,),)
    return tuple((d, *rest) for d in _divisors(extent) for rest in factorisations(extent // d, parts - 1))


@lru_cache(maxsize=4096)
def _divisors(number: int) -> tuple[int, ...]:
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*low, *(number // d for d in low)}))


def spelled(parameters: Mapping[str, Parameter], knobs: Mapping[str, int]) -> dict[str, Any]:
    """What these numbers stand for, by name: factors as lists."""
    chosen = {name: parameters[name].values[number] for name, number in knobs.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
