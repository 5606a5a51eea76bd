"""What may be chosen about measuring; one frozen value, passed in. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True)
class MeasureOptions:
    """Limits, sampling and verification of a Runner. Seconds and bytes throughout."""

    build_function: str = "tuner.build.kernel:build_kernel"  # "module:function", called in the building children
    onnx_function: str = "tuner.graph.onnx_io:to_onnx"  # "module:function", called in the reference child
    objects: str | None = None  # folder on this machine where compiled kernels are kept for whole models
    chunk: int = 3  # candidates built ahead per core before the chunk is measured

    start_limit: float = 120.0  # for a child to import what it needs (cold disks are slow)
    build_limit: float = 20.0  # for one candidate
    reference_limit: float = 120.0  # for one workload's reference
    run_limit: float = 10.0  # for one candidate, from loading to the last sample; FINAL gets three times as much
    memory_limit: int | None = None  # bytes a candidate may add to its process; None = a quarter of the device's

    tolerance: float = 1e-4  # limit on max|y-ref| / max|ref| of one kernel
    seed: int = 0  # of the random inputs and weights
    reference_bytes: int = 4 * GIB  # cap of the folder of references

    min_samples: int = 7
    max_samples: int = 50
    sample_seconds: float = 0.02  # of measuring, after which min_samples are enough
    group_seconds: float = 20e-6  # calls shorter than this are timed several at once
    early_samples: int = 3  # after which a hopeless candidate is stopped ...
    early_ratio: float = 1.7  # ... if it is so many times slower than the best known
    final_factor: int = 3  # Purpose.FINAL takes so many times the samples
    retake_factor: float = 1.0  # disturbed samples are retaken at most so many times the wanted ones
    patience: float = 0.3  # seconds at most that a trial waits for its cores to be calm (see tuner.measure.contention)
    waiting: float = 0.1  # share of a measuring process's time that goes into that; finalists always may wait
    foreign_load: float = 0.15  # share of the device's cores that others may use before a trial is retaken

    def memory(self, device_memory: int) -> int:
        """Bytes that one candidate may add to the process it is built or run in."""
        return self.memory_limit if self.memory_limit is not None else max(GIB // 2, device_memory // 4)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> MeasureOptions:
        return MeasureOptions(**data)
