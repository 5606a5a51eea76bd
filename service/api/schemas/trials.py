"""Schemas of trials and events."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from service.api.schemas.common import SEQ_MAX, Cursor, Input, Listed, Output
from tuner.types import FailureKind, Purpose


class TrialQuery(Cursor):
    """Which trials of a job."""

    limit: int = Field(default=100, ge=1, le=500, description="How many items a page has at most.", examples=[100])
    state: Literal["ok", "failed"] | None = Field(
        default=None, description="Only those with a time, or only those without.", examples=["ok"]
    )
    kind: FailureKind | None = Field(default=None, description="Only those that failed so.", examples=["timeout"])
    order: Literal["id", "-id", "seconds", "-seconds"] = Field(
        default="id", description="By age or by time per call; a minus means: greatest first.", examples=["seconds"]
    )


class EventQuery(Input):
    """Which events."""

    after: int | None = Field(
        default=None, ge=0, le=SEQ_MAX, description="Only events with numbers above this one.", examples=[41]
    )
    limit: int = Field(default=1000, ge=1, le=1000, description="How many at most, when polling.", examples=[100])


class TrialOut(Output):
    """One candidate measured."""

    id: int = Field(description="Grows with time.", examples=[4711])
    workload: str = Field(description="Hash of the computation.", examples=["ab" * 32])
    summary: str = Field(description="The computation in a few words.", examples=["conv 3x3 256->256 14x14 +add +relu"])
    template: str = Field(description="Kernel template.", examples=["conv2d_direct"])
    knobs: dict[str, int] = Field(description="The template's parameters.", examples=[{"ob": 32, "reg_n": 7}])
    cores: int = Field(description="Cores it ran on.", examples=[2])
    purpose: Purpose = Field(description="Why it was measured.", examples=["search"])
    seconds: float | None = Field(description="Median time per call; null if it failed.", examples=[0.00031])
    predicted_seconds: float | None = Field(
        description="What the cost model had predicted, where it was asked.", examples=[0.00029]
    )
    failure_kind: FailureKind | None = Field(description="Why it has no time; null if it has one.", examples=[None])
    failure_message: str | None = Field(description="That in a sentence.", examples=[None])
    build_seconds: float = Field(description="Time spent compiling it.", examples=[0.42])
    measure_seconds: float = Field(description="Time spent measuring it.", examples=[0.11])
    created_at: str = Field(description="When it was stored, UTC.", examples=["2026-03-01T12:00:00.000Z"])


class TrialPage(Listed[TrialOut]):
    """One page of trials."""


class TrialFull(TrialOut):
    """One candidate measured, with everything known of it."""

    job: str = Field(description="The job that made it.", examples=["5f2c9a1b7d3e4f60"])
    device: str = Field(description="Fingerprint of the device.", examples=["3f6c1a9be2d04875"])
    toolchain: str = Field(description="Versions that its time depends on.", examples=["tvm 0.27.0"])
    protocol: str = Field(description="Version of the way of measuring.", examples=["1"])
    layouts: dict[str, str] = Field(description="Layout of each input and output.", examples=[{"i0": "NCHW16c"}])
    template_version: int = Field(description="Version of the template.", examples=[3])
    precision: str = Field(description="Precision of the computation.", examples=["fp32"])
    residency: str = Field(description="Where its weights come from: dram or cache.", examples=["dram"])
    record_key: str = Field(description="Identity of the question that the knobs answer.", examples=["cd" * 32])
    samples: list[float] = Field(description="Seconds per call, in the order taken.", examples=[[0.00031, 0.00032]])
    max_rel_error: float | None = Field(
        description="Largest relative difference from the reference, where compared.", examples=[1.2e-6]
    )
    drift: float | None = Field(
        description="How many times slower than usual its device was, where that is too much: then `seconds` is the "
        "samples' median over it, and the trial no record.", examples=[None]
    )  # fmt: skip
    stderr: str | None = Field(description="The last of what the failed process wrote.", examples=[None])
    canonical: dict[str, Any] = Field(description="The computation itself, in canonical form.", examples=[{}])


class EventOut(Output):
    """One thing that happened in a job."""

    seq: int = Field(description="1, 2, ... within the job.", examples=[42])
    kind: str = Field(description="'state', 'progress', or another; new kinds may come.", examples=["progress"])
    at: str = Field(description="When, UTC.", examples=["2026-03-01T12:00:00.000Z"])
    data: dict[str, Any] = Field(
        description="For 'state': state, reason, wanted. For 'progress': fields of the job that changed, as in GET "
        "/jobs/{id}: stage, message, progress, trials, latency_ms, elapsed_seconds.",
        examples=[{"stage": "search", "message": "measuring block 14 of 56"}],
    )


class Events(Output):
    """Events of a job, when polling."""

    items: list[EventOut] = Field(description="In order.", examples=[[]])
    next: int = Field(description="What to give as 'after' next time.", examples=[42])
