"""What the client gives back: frozen values made of the server's JSON. Fields a newer server adds are in ``raw``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from tuner.types import JobSpec, JobState

T = TypeVar("T")
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True)
class Model:
    """A model the server holds."""

    id: str  # SHA-256 of the file
    name: str
    raw: Mapping[str, Any] = field(repr=False)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Model:
        return Model(data["id"], data["name"], MappingProxyType(dict(data)))


@dataclass(frozen=True)
class RemoteJob:
    """A job as the server saw it when it was asked."""

    id: str
    state: JobState
    stage: str  # what it is doing; empty before it runs
    message: str | None  # the same in plain words
    reason: str | None  # why it is in this state
    spec: JobSpec = field(repr=False)
    progress: Mapping[str, Any]  # done, total, unit
    trials: Mapping[str, int]  # measured, failed, reused
    latency_ms: Mapping[str, float | None]  # best, unoptimised, onnxruntime
    speedup: Mapping[str, float | None]  # over_unoptimised, over_onnxruntime
    reused: bool  # answered from what was known, at once
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether it is in an end state."""
        return self.state in ENDED

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RemoteJob:
        return RemoteJob(
            id=data["id"],
            state=JobState(data["state"]),
            stage=data["stage"],
            message=data.get("message"),
            reason=data.get("reason"),
            spec=JobSpec.from_json(data["spec"]),
            progress=_frozen(data, "progress"),
            trials=_frozen(data, "trials"),
            latency_ms=_frozen(data, "latency_ms"),
            speedup=_frozen(data, "speedup"),
            reused=bool(data.get("reused")),
            raw=MappingProxyType(dict(data)),
        )


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; ``seq`` grows within the job."""

    seq: int
    kind: str  # "state", "progress", "end"
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Listing(Generic[T]):
    """One page of a list; ``next`` is the cursor of the following page, None at the end."""

    items: tuple[T, ...]
    next: str | None


def _frozen(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return MappingProxyType(dict(data.get(name) or {}))
