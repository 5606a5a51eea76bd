"""report.json: what was done, how fast it is, and why; the keys other tools rely on stand in DESIGN.md.

What does not apply is null, never invented.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cost_model.quality import rank_correlation
from tuner.build.assemble import Step
from tuner.build.verify import Verification
from tuner.builds import ModelMemory
from tuner.graph.costs import layer_cost, total_macs
from tuner.graph.ir import Graph
from tuner.graph.load import ImportedModel
from tuner.measure.contest import ContestResult, Ratio
from tuner.measure.machine import MachineState
from tuner.measure.rounding import Rounding
from tuner.plan.plan import VIEW, Plan
from tuner.precision import precision_of
from tuner.search.examination import Figures, examine_knobs
from tuner.search.foreseeing import Foreseen
from tuner.search.sidebyside import SideBySide
from tuner.search.tuning import Tuning
from tuner.types import Device, JobSpec, Trial

LATENCIES = ("tuned", "unoptimised", "unfused", "default", "greedy", "lanes", "onnxruntime")


@dataclass(frozen=True)
class Outcome:
    """Everything a report is made of."""

    spec: JobSpec
    model: ImportedModel
    device: Device
    plan: Plan
    steps: Sequence[Step]  # the exported model's kernel calls
    contest: ContestResult
    winner: str  # which contestant was exported: "tuned", "lanes", "greedy" or "default"
    ratio: Ratio | None  # ONNX Runtime's latency over ours
    over_greedy: Ratio | None  # with the strategy joint: greedy fusion's latency over that of the plan found
    verification: Verification
    memory: ModelMemory  # of the exported model
    kernels: Sequence[tuple[str, float]] | None  # (symbol, seconds) inside the running model
    tuning: Tuning | None
    over_default: Ratio | None  # the default plan's latency over that of the plan found
    foreseen: Foreseen | None  # of the tuned plan, fixed before it was built
    curve: Sequence[Sequence[float]]  # (elapsed seconds, trials, best seconds), see tuner.events.Curve
    machine: MachineState  # while the job ran
    disturbed: int  # samples of kernels that foreign load disturbed
    seconds: Mapping[str, float]
    toolchain: str
    protocol: str
    blocks: Figures | None = None  # of the model of blocks, where other plans than the one begun with were searched
    rounding: Rounding | None = None  # in bf16 or int8: what it costs, and which layers cannot afford it
    left_out: Mapping[str, str] = field(default_factory=dict)  # baselines that were not built -> why
    beside: SideBySide | None = None  # the plan found with blocks side by side, where that should pay ...
    over_in_turn: Ratio | None = None  # ... and the latency of the plan found over that one's


def preamble(spec: JobSpec, model: ImportedModel, device: Device, toolchain: str, protocol: str) -> dict[str, Any]:
    """What every report begins with: what was asked, of which model, on which device."""
    graph = model.graph
    return {
        "version": 1,
        "model": {
            "name": model.name,
            "sha256": model.sha256,
            "graph": graph.hash,
            "layers": len(graph.layers),
            "gmacs": round(total_macs(graph) / 1e9, 4),
            "passes": [{"name": p.name, "enabled": p.enabled, "seconds": round(p.seconds, 4)} for p in model.passes],
        },
        "device": {
            "name": device.name,
            "fingerprint": device.fingerprint,
            "model": device.model,
            "cores": device.cores,
            "simulated": device.simulated,
        },
        "toolchain": toolchain,
        "protocol": protocol,
        "strategy": spec.strategy,
        "precision": spec.precision,
        "seed": spec.seed,
        "budget": {"trials": spec.budget.trials, "seconds": spec.budget.seconds},
    }


def make_report(o: Outcome) -> dict[str, Any]:
    """The report as JSON values."""
    latency = {name: _latency(o.contest, o.winner if name == "tuned" else name) for name in LATENCIES}
    tuning = o.tuning
    return preamble(o.spec, o.model, o.device, o.toolchain, o.protocol) | {
        "measured": True,
        "reused": bool(tuning and tuning.reused and not tuning.measured),
        "trials": {
            "measured": tuning.measured if tuning else 0,
            "failed": tuning.failed if tuning else 0,
            "reused": tuning.reused if tuning else 0,
            "failures": failures(tuning.trials if tuning else ()),
        },
        "seconds": {k: round(o.seconds[k], 3) for k in ("total", "building", "measuring", "deciding")}
        | {"searching": round(tuning.run_seconds, 3) if tuning else 0.0},
        "latency_ms": latency,
        "speedup": {
            "over_unoptimised": _quotient(latency["unoptimised"], latency["tuned"]),
            "over_unfused": _quotient(latency["unfused"], latency["tuned"]),
            "over_default": _quotient(latency["default"], latency["tuned"]),
            "over_onnxruntime": round(o.ratio.median, 4) if o.ratio else None,
            "over_onnxruntime_interval": [round(o.ratio.low, 4), round(o.ratio.high, 4)] if o.ratio else None,
            "over_onnxruntime_rounds": o.ratio.pairs if o.ratio else None,
            "over_greedy": round(o.over_greedy.median, 4) if o.over_greedy else None,
            "over_greedy_interval": (
                [round(o.over_greedy.low, 4), round(o.over_greedy.high, 4)] if o.over_greedy else None
            ),
            "over_greedy_rounds": o.over_greedy.pairs if o.over_greedy else None,
        },
        "left_out": dict(o.left_out),
        "verification": o.verification.to_json(),
        "memory": {**asdict(o.memory), "limit": o.spec.memory_limit},
        "rounding": None if o.rounding is None else o.rounding.to_json(),
        "cost_model": _cost_model(o),
        "prediction": _prediction(o),
        "side_by_side": _side_by_side(o),
        "machine": asdict(o.machine) | {"disturbed_samples": o.disturbed},
        "plan": o.plan.hash,
        "curve": [[t, n, round(best * 1e3, 4)] for t, n, best in o.curve],
        "blocks": _blocks(o),
    }


def _latency(contest: ContestResult, name: str) -> dict[str, Any] | None:
    standing = next((s for s in contest.standings if s.contestant.name == name), None)
    if standing is None or standing.median is None or standing.min is None:
        return None
    return {
        "median": round(standing.median * 1e3, 4),
        "min": round(standing.min * 1e3, 4),
        "samples": len(standing.samples),
    }


def _quotient(other: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> float | None:
    return round(other["median"] / ours["median"], 4) if other and ours else None


def failures(trials: Iterable[Trial]) -> dict[str, int]:
    """How many trials failed, by kind."""
    counts: dict[str, int] = {}
    for trial in trials:
        if trial.failure is not None:
            counts[trial.failure.kind.value] = counts.get(trial.failure.kind.value, 0) + 1
    return counts


def cost_model(
    pairs: Sequence[tuple[float, float]], blocks: Figures | None, knobs: Figures | None
) -> dict[str, Any] | None:
    """How well times were predicted before they were measured, and how well of workloads not seen.

    Args:
        pairs: (predicted, measured) log-seconds of what was proposed in this job.
        blocks: the model of blocks examined, where plans were searched; ``knobs``: the model that ranks knobs.
    """
    enough = len(pairs) >= 3
    if not enough and blocks is None and knobs is None:
        return None
    predicted, measured = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
    correlation = rank_correlation(predicted, measured)
    return {
        "predictions": len(pairs),
        "rank_correlation": None if correlation is None else round(correlation, 4),
        "median_ratio_error": round(float(np.expm1(np.median(np.abs(predicted - measured)))), 4) if enough else None,
        "blocks": None if blocks is None else blocks.to_json(),
        "knobs": None if knobs is None else knobs.to_json(),
    }


def _cost_model(o: Outcome) -> dict[str, Any] | None:
    tuning = o.tuning
    if tuning is None:
        return None
    knobs = examine_knobs(tuning.allocation.searches.values()) if tuning.measured else None
    return cost_model(tuning.allocation.predictions, o.blocks, knobs)


def _prediction(o: Outcome) -> dict[str, Any] | None:
    """How the plan's time was foreseen before it was measured as a whole.

    Blocks are timed in calm moments of the machine. On one that others load the whole has few of them: its fastest
    call is then what tells whether the blocks add up (``blocks_ms``). What it takes in all moments is foreseen from
    what the default plan takes in them.
    """
    tuned = next((s for s in o.contest.standings if s.contestant.name == "tuned"), None)
    if o.foreseen is None or tuned is None or tuned.median is None or tuned.min is None:
        return None
    return {
        "predicted_ms": round(o.foreseen.seconds * 1e3, 4),
        "measured_ms": round(tuned.median * 1e3, 4),
        "error": round(o.foreseen.seconds / tuned.median - 1, 4),
        "blocks_ms": round(o.foreseen.blocks * 1e3, 4),
        "fastest_ms": round(tuned.min * 1e3, 4),
        "fastest_error": round(o.foreseen.blocks / tuned.min - 1, 4),
        "over_default": _speedup_prediction(o.foreseen.over_default, o.over_default),
    }


def _side_by_side(o: Outcome) -> dict[str, Any] | None:
    """What running blocks at the same time was to bring, and what it brought; None where it was not to pay."""
    if o.beside is None:
        return None
    found = o.over_in_turn
    return {
        "stages": sum(len(stage.lanes) > 1 for stage in o.beside.plan.stages),
        "predicted": round(o.beside.in_turn / o.beside.seconds, 4),
        "measured": None if found is None else round(found.median, 4),
        "interval": None if found is None else [round(found.low, 4), round(found.high, 4)],
        "exported": o.winner == "lanes",
    }


def _speedup_prediction(foreseen: float | None, found: Ratio | None) -> dict[str, Any] | None:
    """How the speed-up over the default plan was foreseen. Unlike milliseconds it hardly depends on who else computes
    on the machine: both wholes are timed in turns, and so are most of their kernels. ``error`` is that of the time."""
    if foreseen is None or found is None:
        return None
    return {
        "predicted": round(foreseen, 4), "measured": round(found.median, 4),
        "interval": [round(found.low, 4), round(found.high, 4)], "error": round(found.median / foreseen - 1, 4),
    }  # fmt: skip


def _block(
    graph: Graph, step: Step, seconds: float | None, share: float | None, together: Mapping[str, Any] | None
) -> dict[str, Any]:  # fmt: skip
    ops = sum(layer_cost(graph, graph.by_id[i]).ops for i in step.layers)
    return {
        "layers": list(step.layers),
        "cores": step.cores,
        "layouts": dict(step.layouts),
        "template": step.template,
        "precision": precision_of(step.template),
        "knobs": None if step.knobs is None else dict(step.knobs),
        "symbol": step.symbol,
        "ms": None if seconds is None else round(seconds * 1e3, 5),
        "gflops": None if not seconds else round(ops / seconds / 1e9, 2),
        "share": share,
        "together": together,
    }


def _blocks(o: Outcome) -> list[dict[str, Any]]:
    """Every kernel of the exported model in running order, timed inside it; conversions have no layers.

    Kernels that run side by side are not timed one by one: "together" has the time of their call, the same for all of
    them. Blocks without a kernel follow, as views.
    """
    graph = o.model.graph
    times = [seconds for _, seconds in o.kernels] if o.kernels else []
    fits = len(times) == len(o.steps)
    whole = sum(times) or 1.0
    rows: list[dict[str, Any]] = []
    for number, step in enumerate(o.steps):
        seconds = times[number] if fits else None
        ms, share = (None, None) if seconds is None else (round(seconds * 1e3, 5), round(seconds / whole, 5))
        rows += [_block(graph, step, seconds, share, None)] if not step.lanes else [
            _block(graph, one, None, None, {"call": number, "lane": place, "ms": ms, "share": share})
            for place, lane in enumerate(step.lanes) for one in lane
        ]  # fmt: skip
    ran = {tuple(row["layers"]) for row in rows}
    for block in o.plan.blocks:
        if block.layers not in ran:  # views, and concatenations whose parts are written where they belong
            rows.append(
                {
                    "layers": list(block.layers), "cores": 0, "layouts": {}, "template": VIEW,
                    "precision": precision_of(VIEW), "knobs": None,
                    "symbol": None, "ms": 0.0, "gflops": None, "share": 0.0, "together": None,
                }
            )  # fmt: skip
    return rows
