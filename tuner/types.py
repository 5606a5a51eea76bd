"""The value types every room may import. Standard library only; all frozen; all round-trip through JSON.

A failed candidate is a value (``Failure`` inside a ``Trial``); only a failed service is an exception.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from statistics import median
from typing import Any

from tuner.errors import UserError
from tuner.precision import ACCURACY, FP32

SIMULATED = "sim:"  # how names of simulated devices begin
PROTOCOL = "8"  # bump when the way of measuring, or of all kernels, changes: older records are then not comparable


class JobState(StrEnum):
    """Where a job is in its life; see docs/jobs.md for the named transitions."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"  # keeps its best so far


class FailureKind(StrEnum):
    """Why a trial has no time. RETRYABLE names the passing reasons."""

    BUILD = "build"  # the template or the compiler refused
    REJECTED = "rejected"  # refused before running: its machine code spills registers
    CRASH = "crash"  # the process that ran it died of a signal
    TIMEOUT = "timeout"  # it did not end within its time limit
    MEMORY = "memory"  # it needed more memory than allowed
    WRONG = "wrong"  # it ended, but its output differs from the reference
    LOST = "lost"  # the device or its worker went away
    ERROR = "error"  # it raised an error while running


RETRYABLE = frozenset({FailureKind.TIMEOUT, FailureKind.LOST, FailureKind.MEMORY})


class Purpose(StrEnum):
    """Why a trial was made."""

    SEARCH = "search"  # looking for better knobs
    CORES = "cores"  # the best knobs on other core counts
    FINAL = "final"  # a further sample of a finalist, in another process
    PLAN = "plan"  # a whole model


@dataclass(frozen=True)
class Device:
    """A thing that measures, one candidate at a time.

    ``fingerprint`` identifies the hardware, so that records of two different machines never mix. Sizes in bytes.
    """

    name: str  # what users say: "cpu"
    kind: str  # "cpu", "cuda", "sim"
    model: str  # CPU or GPU model as the machine names it
    mcpu: str  # LLVM's name of the processor; "sm_86" of a GPU
    features: tuple[str, ...]  # ISA features that decide code generation, sorted
    cores: int  # physical cores this process may use; a GPU's SMs
    lanes: int  # float32 numbers in one vector register; threads of a GPU's warp
    registers: int  # architectural vector registers; 32-bit ones of an SM
    l1: int  # data cache of one core
    l2: int  # cache of one core
    l3: int  # last-level cache, shared
    memory: int  # bytes this process may use
    simulated: bool = False

    @property
    def fingerprint(self) -> str:
        parts = [self.kind, self.model, self.mcpu, *self.features, self.cores, self.lanes, self.l1, self.l2, self.l3]
        return digest([str(p) for p in parts])[:16]

    def target(self) -> dict[str, Any]:
        """TVM's target description as a plain dict."""
        if self.kind == "cuda":
            # 48 kB is what a kernel may have without asking the driver for more, which TVM's CUDA code does not do.
            limits = {"max_threads_per_block": 1024, "max_shared_memory_per_block": 48 << 10}
            sizes = {"thread_warp_size": self.lanes, "registers_per_block": self.registers}
            return {"kind": "cuda", "arch": self.mcpu, **sizes, **limits}
        return {"kind": "llvm", "mcpu": self.mcpu, "num-cores": self.cores}

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"features": list(self.features), "fingerprint": self.fingerprint}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Device:
        fields = {k: v for k, v in data.items() if k != "fingerprint"}
        return Device(**fields | {"features": tuple(fields["features"])})


@dataclass(frozen=True)
class Candidate:
    """A kernel to build and measure, by value: anything a builder on any machine needs is in here.

    ``workload`` is the canonical graph's JSON (see tuner.plan.workload); ``layouts`` maps its input and output tensor
    names to layouts ("plain" or "NCHW16c"); ``residency`` says how cold the weights are in the running model.
    """

    workload: Mapping[str, Any] = field(repr=False)
    workload_hash: str
    layouts: Mapping[str, str]
    template: str
    template_version: int
    knobs: Mapping[str, int]
    cores: int
    precision: str = "fp32"
    residency: str = "dram"  # "dram" or "cache" (the last level): where weights come from at each call

    @cached_property
    def key(self) -> str:
        """Identity of the thing built and measured: equal keys are never built twice in one job."""
        return digest([self.record_key, dict(sorted(self.knobs.items()))])

    @cached_property
    def record_key(self) -> str:
        """Identity of the question that knobs answer, apart from device, toolchain and protocol."""
        return record_key(
            self.workload_hash, self.layouts, self.template, self.template_version, self.cores, self.precision,
            self.residency,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Candidate:
        return Candidate(**data)


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: kind, one sentence, and what the process wrote to stderr (its last 8 kB)."""

    kind: FailureKind
    message: str
    stderr: str = ""


@dataclass(frozen=True)
class Trial:
    """One candidate measured: all samples in seconds OR a failure, never neither and never both."""

    candidate: Candidate
    purpose: Purpose = Purpose.SEARCH
    samples: tuple[float, ...] = ()  # seconds per call, in the order taken
    failure: Failure | None = None
    max_rel_error: float | None = None  # max|y-ref| / max|ref|, worst output
    build_seconds: float = 0.0
    measure_seconds: float = 0.0
    predicted: float | None = None  # seconds per call that the cost model expected, if it was asked
    calibration: float | None = None  # seconds of the device's calibration kernel meanwhile; None = not timed
    drift: float | None = None  # times its usual that took, where it says that the device had drifted

    def __post_init__(self) -> None:
        if bool(self.samples) == (self.failure is not None):
            raise ValueError("a trial has samples or a failure, exactly one of the two")

    @property
    def seconds(self) -> float | None:
        """Median seconds per call, over the drift if there was one; None for a failed trial."""
        return median(self.samples) / (self.drift or 1.0) if self.samples else None

    def to_json(self) -> dict[str, Any]:
        """The trial as one line of trials.jsonl; the workload is named by its hash alone."""
        candidate = {f.name: getattr(self.candidate, f.name) for f in fields(Candidate) if f.name != "workload"}
        failure = self.failure
        return {
            "candidate": candidate,
            "purpose": self.purpose.value,
            "seconds": self.seconds,
            "samples": list(self.samples),
            "failure": failure and {"kind": failure.kind.value, "message": failure.message, "stderr": failure.stderr},
            "max_rel_error": self.max_rel_error,
            "predicted": self.predicted,
            "drift": self.drift,
            "build_seconds": round(self.build_seconds, 4),
            "measure_seconds": round(self.measure_seconds, 4),
        }

    @property
    def passing(self) -> bool:
        """Whether it failed for a reason that may be gone at the next try."""
        return self.failure is not None and self.failure.kind in RETRYABLE


@dataclass(frozen=True)
class Record:
    """The best verified trial per question (Candidate.record_key) on one device, toolchain and protocol."""

    candidate: Candidate
    seconds: float  # median of the best trial
    samples: int  # how many samples stand behind it
    device: str  # fingerprint
    toolchain: str
    protocol: str


@dataclass(frozen=True)
class Budget:
    """What a job may spend; None means no limit of that kind."""

    trials: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class JobSpec:
    """All that a job is. Paths never enter: the model is named by its SHA-256."""

    model: str  # SHA-256 of the ONNX file's bytes
    device: str = "cpu"
    strategy: str = "joint"
    budget: Budget = field(default_factory=Budget)
    cores: tuple[int, ...] | None = None  # core counts to consider per block; None = 1..all
    precision: str = "fp32"
    accuracy: float = 0.0  # limit on max_rel_error of the whole model; 0 becomes the precision's usual one
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    disabled_passes: tuple[str, ...] = ()
    plan: Mapping[str, Any] | None = None  # a hand-written plan; None = fusetune's own
    memory_limit: int | None = None  # bytes that the tuned model's weights and buffers may take
    seed: int = 0
    fresh: bool = False  # do not use stored records

    def __post_init__(self) -> None:
        if not self.accuracy:
            object.__setattr__(self, "accuracy", ACCURACY.get(self.precision, ACCURACY[FP32]))

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"budget": vars(self.budget), "shapes": dict(self.shapes)}  # asdict copies the whole plan

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> JobSpec:
        values = dict(data)
        values["budget"] = Budget(**values.get("budget") or {})
        values["shapes"] = {k: tuple(v) for k, v in (values.get("shapes") or {}).items()}
        values["disabled_passes"] = tuple(values.get("disabled_passes") or ())
        values["cores"] = tuple(values["cores"]) if values.get("cores") else None
        try:
            return JobSpec(**values)
        except TypeError as error:
            raise UserError(f"The job cannot be read: {error}.", code="bad-job") from error

    @property
    def question(self) -> str:
        """Hash of everything but the budget: two jobs with the same question have the same answer."""
        return digest({k: v for k, v in self.to_json().items() if k not in {"budget", "fresh"}})


# Made once: that costs more than to use it.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=list)


def record_key(
    workload_hash: str, layouts: Mapping[str, str], template: str, version: int, cores: int, precision: str,
    residency: str,
) -> str:  # fmt: skip
    """``Candidate.record_key`` of what is not a Candidate yet."""
    return digest([workload_hash, dict(sorted(layouts.items())), template, version, cores, precision, residency])


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()
