"""What a cost model is told about a machine: a few numbers, measured or from its data sheet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """Facts of one machine. They only start the fit: a figure that is off by a factor of a few is corrected by it."""

    cores: int
    peak_flops: float  # floating-point operations per second, all cores together
    vector_flops: float  # the same where nothing is multiplied and accumulated (elementwise, pooling, depthwise)
    bandwidth: float  # bytes per second from memory, all cores together
    core_bandwidth: float  # bytes per second that one core can draw
    core_memory: float  # bytes of fast memory (cache or scratchpad) that one core has for itself
    shared_memory: float  # bytes of fast memory that all cores share; 0 = there is none
    both_ways: bool = True  # cores may divide a block by rows and by channels at once; False = one or the other

    @property
    def core_flops(self) -> float:
        """Operations per second of one core."""
        return self.peak_flops / self.cores

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def vector_cost(self) -> float:
        """How much longer an operation takes in layers without multiply-accumulates."""
        return self.peak_flops / self.vector_flops

    @property
    def core_balance(self) -> float:
        """Operations per byte at which a core computes as long as it waits for memory."""
        return self.core_flops / self.core_bandwidth

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Machine:
        return Machine(**data)
