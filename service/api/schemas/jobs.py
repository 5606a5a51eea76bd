"""Schemas of jobs: what a client asks for, and how a job is shown."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from service.api.schemas.common import NO_NUL, Cursor, DeviceRef, Input, Listed, Moment, Name, Output, Sha256, Word
from service.rules import STRATEGIES
from tuner.precision import ACCURACY, PRECISIONS
from tuner.types import Budget, JobSpec, JobState

_DEEPEST = 40  # levels of a plan; ours have 9
PLAN_LIMIT = 1 << 20  # bytes of a plan as JSON; ours of a large model have a fifth of that
_SECONDS = 31_536_000  # a year
_MODEL = "9f" * 32

Extent = Annotated[int, Field(ge=1, le=2**31 - 1)]
Shape = Annotated[list[Extent], Field(max_length=16)]


def _limited(plan: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [plan]
    for _ in range(_DEEPEST):
        level = [
            inner for each in level if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]  # fmt: skip
        if not level:
            break
    else:
        raise ValueError(f"A plan has at most {_DEEPEST} levels")
    if len(json.dumps(plan, separators=(",", ":"))) > PLAN_LIMIT:
        raise ValueError(f"A plan has at most {PLAN_LIMIT} bytes")
    return plan


Plan = Annotated[dict[str, Any], AfterValidator(_limited)]


class BudgetIn(Input):
    """What the job may spend. Neither given: 300 seconds."""

    trials: int | None = Field(
        default=None, ge=0, le=10_000_000,
        description="Candidates measured at most, failures included; 0 = the defaults, with no search.", examples=[200],
    )  # fmt: skip
    seconds: float | None = Field(
        default=None, gt=0, le=_SECONDS,
        description="Time from start to artifact at most; waiting and pauses excluded.", examples=[300],
    )  # fmt: skip


class JobIn(Input):
    """A job: which model to tune for which device, and how."""

    model: Sha256 = Field(description="Id of an uploaded model: the SHA-256 of its file.", examples=[_MODEL])
    device: Name = Field(default="cpu", description="Name of the device, as GET /devices lists them.", examples=["cpu"])
    strategy: Word = Field(
        default=STRATEGIES[0],
        description=f"How the space is searched: {', '.join(STRATEGIES)}; 'none' measures the unoptimised plan. "
        "Options follow a colon: `tpe:plans=200,startup=10`.",
        examples=list(STRATEGIES),
    )  # fmt: skip
    budget: BudgetIn = Field(
        default_factory=BudgetIn, description="What the job may spend.", examples=[{"trials": 200, "seconds": 300}]
    )
    cores: list[Annotated[int, Field(ge=1, le=1024)]] | None = Field(
        default=None, min_length=1, max_length=64,
        description="Core counts to consider for each block; null = 1 up to all of the device.", examples=[[1, 2]],
    )  # fmt: skip
    precision: Word = Field(
        default=PRECISIONS[0], description=f"Precision of the computation: {', '.join(PRECISIONS)}.",
        examples=list(PRECISIONS),
    )  # fmt: skip
    accuracy: float | None = Field(
        default=None, gt=0, le=1,
        description="Largest allowed relative error of the whole model: max|y-ref| / max|ref| of the worst output; "
        "null = the precision's usual one, "
        + ", ".join(f"{limit:g} in {name}" for name, limit in ACCURACY.items()) + ".",
        examples=[0.0001],
    )  # fmt: skip
    shapes: dict[Name, Shape] = Field(
        default_factory=dict, max_length=64,
        description="Shapes of inputs whose shape the model leaves open, by input name.",
        examples=[{"data": [1, 3, 224, 224]}],
    )  # fmt: skip
    disabled_passes: list[Word] = Field(
        default_factory=list,
        max_length=64,
        description="Cleaning passes to switch off.",
        examples=[["fold-constants"]],
    )
    plan: Plan | None = Field(
        default=None, description="A hand-written plan, as GET /jobs/{id}/plan gives them; null = fusetune's own.",
        examples=[None],
    )  # fmt: skip
    memory_limit: int | None = Field(
        default=None, ge=2**20, le=2**50,
        description="Bytes that the tuned model's weights and buffers may take; CPUs only.", examples=[2**31],
    )  # fmt: skip
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Of everything random.", examples=[0])
    fresh: bool = Field(
        default=False, description="Search again although the answer, or a part of it, is known.", examples=[False]
    )
    priority: int = Field(default=0, ge=-1000, le=1000, description="Higher ones run first.", examples=[0])
    notes: Annotated[str, StringConstraints(max_length=4000, pattern=NO_NUL)] | None = Field(
        default=None, description="Your own words, kept with the job.", examples=["before the release"]
    )

    def spec(self) -> JobSpec:
        """The job as all of fusetune knows it."""
        return JobSpec(
            model=self.model,
            device=self.device,
            strategy=self.strategy,
            budget=Budget(self.budget.trials, self.budget.seconds),
            cores=None if self.cores is None else tuple(sorted(set(self.cores))),
            precision=self.precision,
            accuracy=self.accuracy or 0.0,
            shapes={name: tuple(shape) for name, shape in self.shapes.items()},
            disabled_passes=tuple(sorted(set(self.disabled_passes))),
            plan=self.plan,
            memory_limit=self.memory_limit,
            seed=self.seed,
            fresh=self.fresh,
        )


class JobQuery(Cursor):
    """Which jobs."""

    state: list[JobState] = Field(
        default_factory=list, max_length=7, description="Only jobs in one of these states; repeat it for several.",
        examples=[["RUNNING"]],
    )  # fmt: skip
    device: Name | None = Field(default=None, description="Only this device: name or fingerprint.", examples=["cpu"])
    model: Name | None = Field(
        default=None, description="Only this model: name, id, or the beginning of an id.", examples=["resnet50"]
    )
    created_after: Moment | None = Field(
        default=None, description="Only jobs that came after this moment (ISO 8601 with time zone).",
        examples=["2026-03-01T00:00:00Z"],
    )  # fmt: skip
    created_before: Moment | None = Field(
        default=None, description="Only jobs that came before this moment.", examples=["2026-04-01T00:00:00Z"]
    )
    order: Literal["-created_at", "created_at", "-priority"] = Field(
        default="-created_at", description="A minus means: greatest first.", examples=["-created_at"]
    )


class Progress(Output):
    """How far a job is."""

    done: float = Field(description="Steps done, in 'unit'.", examples=[120])
    total: float | None = Field(description="Steps there are, in 'unit'; null while unknown.", examples=[200])
    unit: str = Field(description="What is counted: trials, seconds, or share of the job.", examples=["trials"])


class TrialCount(Output):
    """Trials of a job."""

    measured: int = Field(description="Candidates measured, failures included, reuse excluded.", examples=[120])
    failed: int = Field(description="Of these, the failed ones.", examples=[3])
    reused: int = Field(description="Answers taken from stored records.", examples=[38])


class Latencies(Output):
    """Time of one run of the whole model, in milliseconds."""

    best: float | None = Field(description="The best so far.", examples=[17.9])
    unoptimised: float | None = Field(description="Every layer alone, one core, default knobs.", examples=[154.0])
    onnxruntime: float | None = Field(description="ONNX Runtime on the same cores.", examples=[25.4])


class Speedup(Output):
    """The other's latency divided by ours: above 1 is faster."""

    over_unoptimised: float | None = Field(description="Over the unoptimised plan.", examples=[8.6])
    over_onnxruntime: float | None = Field(
        description="Over ONNX Runtime: of the latencies; once the job has ended the report's, paired within rounds.",
        examples=[1.42],
    )


class ModelRef(Output):
    """Which model."""

    id: str = Field(description="SHA-256 of the file.", examples=[_MODEL])
    name: str = Field(description="What it was called when the job came.", examples=["resnet50"])


class SpecOut(Output):
    """The job as it was asked for; fields as in POST /jobs."""

    model: str = Field(description="Id of the model.", examples=[_MODEL])
    device: str = Field(description="Device.", examples=["cpu"])
    strategy: str = Field(description="How the space is searched.", examples=["greedy"])
    budget: dict[str, float | None] = Field(
        description="What the job may spend.", examples=[{"trials": 200, "seconds": 300}]
    )
    cores: list[int] | None = Field(description="Core counts to consider.", examples=[[1, 2]])
    precision: str = Field(description="Precision of the computation.", examples=["fp32"])
    accuracy: float = Field(description="Largest allowed relative error.", examples=[0.0001])
    shapes: dict[str, list[int]] = Field(description="Shapes by input.", examples=[{"data": [1, 3, 224, 224]}])
    disabled_passes: list[str] = Field(description="Passes switched off.", examples=[[]])
    plan: dict[str, Any] | None = Field(
        description="A hand-written plan; left out (null) in lists of jobs.", examples=[None]
    )
    memory_limit: int | None = Field(description="Bytes that the tuned model may take.", examples=[None])
    seed: int = Field(description="Of everything random.", examples=[0])
    fresh: bool = Field(description="Whether known answers were not to be used.", examples=[False])


class JobOut(Output):
    """A job and how far it is."""

    id: str = Field(description="The job's id.", examples=["5f2c9a1b7d3e4f60"])
    spec: SpecOut = Field(description="What was asked for.", examples=[{"model": _MODEL, "device": "cpu"}])
    state: JobState = Field(description="Where it is in its life.", examples=["RUNNING"])
    stage: str = Field(
        description="What it works at: import, plan, search, build, compare, export; empty before it runs.",
        examples=["search"],
    )
    message: str | None = Field(description="What it does now, in plain words.", examples=["measuring block 14 of 56"])
    reason: str | None = Field(description="Why it is in this state, where that needs one.", examples=[None])
    wanted: str | None = Field(
        description="What was asked of the running job and not done yet: cancel or pause.", examples=[None]
    )
    progress: Progress = Field(description="How far it is.", examples=[{"done": 120, "total": 200, "unit": "trials"}])
    trials: TrialCount = Field(description="Its trials.", examples=[{"measured": 120, "failed": 3, "reused": 38}])
    latency_ms: Latencies = Field(
        description="Latencies of the whole model.",
        examples=[{"best": 17.9, "unoptimised": 154.0, "onnxruntime": 25.4}],
    )
    speedup: Speedup = Field(
        description="How much faster.", examples=[{"over_unoptimised": 8.6, "over_onnxruntime": 1.42}]
    )
    reused: bool = Field(description="Answered at once by an earlier job's result.", examples=[False])
    answered_by: str | None = Field(description="Id of the job whose trials the answer stands on.", examples=[None])
    priority: int = Field(description="Higher ones run first.", examples=[0])
    notes: str | None = Field(description="The client's own words.", examples=["before the release"])
    model: ModelRef = Field(description="The model.", examples=[{"id": _MODEL, "name": "resnet50"}])
    device: DeviceRef = Field(description="The device.", examples=[{"name": "cpu", "fingerprint": "3f6c1a9be2d04875"}])
    elapsed_seconds: float = Field(description="Time worked; waiting and pauses excluded.", examples=[81.5])
    curve: list[list[float | None]] = Field(
        description="Best latency over time, thinned: [seconds worked, trials, best latency in seconds].",
        examples=[[[2.0, 3, 0.031], [9.5, 20, 0.0179]]],
    )
    created_at: str = Field(description="When it came, UTC.", examples=["2026-03-01T12:00:00.000Z"])
    started_at: str | None = Field(description="When it first ran, UTC.", examples=["2026-03-01T12:00:01.000Z"])
    finished_at: str | None = Field(description="When it ended, UTC.", examples=[None])
    links: dict[str, str] = Field(
        description="Addresses of what belongs to it.", examples=[{"self": "/api/v1/jobs/5f2c9a1b7d3e4f60"}]
    )


class JobPage(Listed[JobOut]):
    """One page of jobs."""
