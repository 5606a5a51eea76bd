"""What the lists of jobs show of a job: its words, figures and little pictures, made from the stored values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from db.jobs import Job
from service.web import units
from tuner.types import JobSpec, JobState

LIVE = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING})  # these change while one looks
WIDTH, HEIGHT, _MARGIN = 120, 28, 3


@dataclass(frozen=True)
class Sparkline:
    """The best latency over time as an SVG path in a box of ``width`` x ``height``."""

    path: str
    end: tuple[float, float]
    reference: float | None  # y of ONNX Runtime's latency, if it lies within reach
    label: str  # the same in words
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class JobRow:
    """One line of a list of jobs."""

    job: Job
    name: str  # of the model
    settings: str  # strategy and budget in a few words
    doing: str  # what it does, or why it is in its state
    live: bool
    spark: Sparkline | None


def job_row(job: Job) -> JobRow:
    """The line of a job."""
    return JobRow(
        job=job,
        name=model_name(job),
        settings=settings_of(job.spec),
        doing=doing(job),
        live=job.state in LIVE,
        spark=sparkline(job.curve, job.onnxruntime_seconds),
    )


def model_name(job: Job) -> str:
    """What people call the job's model."""
    return job.model_name or job.model[:12]


def quotient(other: float | None, ours: float | None) -> float | None:
    """How many times faster than the other; None while either is unknown."""
    return other / ours if other and ours else None


def settings_of(spec: JobSpec) -> str:
    """How it is searched: strategy, budget, cores and whatever differs from the usual."""
    parts = [spec.strategy]
    if spec.budget.trials is not None:
        parts.append(f"{units.count(spec.budget.trials)} trials" if spec.budget.trials != 1 else "1 trial")
    if spec.budget.seconds is not None:
        parts.append(units.duration(spec.budget.seconds))
    if spec.cores:
        parts.append(f"cores {', '.join(map(str, spec.cores))}")
    if spec.fresh:
        parts.append("fresh")
    return ", ".join(parts)


def doing(job: Job) -> str:
    """What the job does now, in plain words; once it has stopped, why."""
    match job.state:
        case JobState.RUNNING | JobState.CANCELLING:
            return job.message or job.reason or "starting"
        case JobState.QUEUED:
            return job.message or job.reason or "waiting for its turn on the device"
        case JobState.PAUSED:
            return job.reason or "paused; resume it on its page"
        case JobState.SUCCEEDED:
            gain = quotient(job.unoptimised_seconds, job.best_seconds)
            said = ["answered from the records"] if job.reused else []
            return job.reason or "; ".join([*said, f"{units.speedup(gain)} over unoptimised"] if gain else said)
    return job.reason or ""


def sparkline(curve: Sequence[Sequence[float]], reference: float | None = None) -> Sparkline | None:
    """The picture of [elapsed seconds, trials, best seconds] points; None while there is no line to draw."""
    points = [(float(point[0]), float(point[2])) for point in curve if point[2]]
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    start, stop = points[0][0], points[-1][0]
    low, high = min(best for _, best in points), max(best for _, best in points)
    # ONNX Runtime's line belongs in the picture unless it would press ours flat.
    if reference is not None and low / 2 <= reference <= high * 2:
        low, high = min(low, reference), max(high, reference)
    span = (high - low) or 1.0

    def x(seconds: float) -> float:
        return round((seconds - start) / (stop - start) * WIDTH, 1)

    def y(best: float) -> float:
        return round(_MARGIN + (high - best) / span * (HEIGHT - 2 * _MARGIN), 1) if high > low else HEIGHT / 2

    # Slower is higher up; the best holds until a better one comes, so the line goes in steps.
    path = f"M{x(start)} {y(points[0][1])}"
    for seconds, best in points[1:]:
        path += f"H{x(seconds)}V{y(best)}"
    within = reference is not None and low <= reference <= high
    return Sparkline(
        path=path,
        end=(x(stop), y(points[-1][1])),
        reference=y(reference) if within and reference is not None else None,
        label=f"From {units.latency(points[0][1])} to {units.latency(points[-1][1])} in {units.duration(stop - start)}"
        + (f"; dashed: ONNX Runtime, {units.latency(reference)}" if within else ""),
    )
