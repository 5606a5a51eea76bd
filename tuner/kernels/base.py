"""The KernelTemplate seam: what every template promises, and the values it trades in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from tuner.plan.layout import Pack
from tuner.precision import FP32

if TYPE_CHECKING:
    from tuner.build.binary import Arg
    from tuner.graph.ir import Graph
    from tuner.types import Device

Knobs = Mapping[str, int]
Layouts = Mapping[str, str]


@dataclass(frozen=True)
class Space:
    """A template's knobs for one workload: name -> allowed values, and the choice that is good with no search.

    ``rule`` drops combinations that cannot be good (more accumulators than registers, say) before anybody builds them.
    ``fold`` is for spaces in which most combinations mean no more than another: it says which, and leaves allowed ones
    as they are.
    """

    knobs: Mapping[str, Sequence[int]]
    default: Knobs
    rule: Callable[[Knobs], bool] = lambda _: True
    fold: Callable[[Knobs], Knobs] = lambda knobs: knobs

    def __post_init__(self) -> None:
        if self.default not in self:
            raise ValueError(f"default {dict(self.default)} is outside the space {dict(self.knobs)}")

    @cached_property
    def points(self) -> tuple[dict[str, int], ...]:
        """Every allowed choice of knobs, in a fixed order."""
        every = (dict(zip(self.knobs, values, strict=True)) for values in product(*self.knobs.values()))
        return tuple(p for p in every if self.rule(p))

    @property
    def bound(self) -> int:
        """Number of points before the rule; cheap, for spaces too large to list."""
        return prod(len(values) for values in self.knobs.values())

    def __contains__(self, knobs: object) -> bool:
        return (
            isinstance(knobs, Mapping)
            and knobs.keys() == self.knobs.keys()
            and all(v in self.knobs[k] for k, v in knobs.items())
            and self.rule(knobs)
        )


@dataclass(frozen=True)
class Kernel:
    """A scheduled PrimFunc in destination-passing style, and how its constants are packed."""

    module: Any  # tvm.IRModule with the one function "main", as it was before scheduling
    schedule: Any  # tvm.s_tir.Schedule of it; its trace replays on ``module``
    args: tuple[Arg, ...]
    packs: Mapping[str, Pack] = field(default_factory=dict)


class KernelTemplate(ABC):
    """Turns a workload into a kernel.

    Contract: stateless and cheap to construct; the three methods are pure functions of their arguments, so that any
    process on any machine gives the same kernel. ``name`` and ``version`` are part of every record's identity: raise
    ``version`` whenever ``build`` changes its code for the same arguments. A template may refuse in ``build`` with
    CandidateError; it never builds a wrong kernel. Where ``precision`` is "bf16" its kernels compute, in float32, with
    weights rounded to bfloat16 (``tuner.plan.bf16.weight_names`` says which), where it is "bf16-dot" what these weights
    are multiplied with is rounded, too; they are held against that. "int8" is the same with what integers of 8 bits
    stand for (``tuner.plan.int8``), on the grid of a range that is one of the kernel's constants.
    """

    name: str
    version: int = 1
    precision: str = FP32  # what its kernels multiply; other precisions than fp32 serve such jobs alone
    heavy: frozenset[str] = frozenset()  # operators that it accepts beside elementwise ones; of these it needs some

    @abstractmethod
    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        """Whether ``build`` can serve this workload with these layouts of its inputs and outputs on this device."""

    @abstractmethod
    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        """Knobs of an accepted workload; the default must be good with no search at all."""

    @abstractmethod
    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        """The kernel on ``cores`` cores. Raises CandidateError(code="rejected") for knobs known to be hopeless."""
