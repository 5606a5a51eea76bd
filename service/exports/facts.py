"""What a report says, in the words and rows that the job page and report.html share. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from db.insight import Group
from service.exports.drawing.boxes import Box, Network
from service.exports.drawing.lines import Mark
from service.interval import interval_words
from service.web.units import error, ms, speedup
from tuner.precision import FP32
from tuner.types import Purpose

NAMES = {  # of the contestants, in the order in which they are compared
    "tuned": "fusetune",
    "onnxruntime": "ONNX Runtime",
    "default": "Default plan",
    "unfused": "Unfused",
    "unoptimised": "Unoptimised",
}
NOTES = {
    "tuned": "the exported model",
    "onnxruntime": "same threads, timed in turns with ours",
    "default": "greedy fusion, default knobs, no search",
    "unfused": "every layer alone, all cores",
    "unoptimised": "every layer alone, one core",
}


@dataclass(frozen=True)
class Tried:
    """What one job tried for one workload."""

    trials: int
    failed: int
    best: Mapping[str, float]  # template -> seconds of its fastest
    default: float | None  # seconds of the planned template's default knobs, where the job measured them


@dataclass(frozen=True)
class Row:
    """One kernel of the exported model."""

    box: int | None  # its number in the drawing; None: a change of layout, which has no layers
    title: str
    layers: tuple[str, ...]
    ops: int | None
    ms: float | None
    share: float | None
    gflops: float | None
    roof: float | None  # share of the roofline that binds, 0..1; None where the device's peak is not known
    bound: str | None  # "compute" or "memory"
    cores: int
    layout: str
    template: str
    knobs: str
    gain: float | None  # default knobs' time over the best found, as measured one by one
    tried: Tried | None
    together: float | None = None  # ms of the call in which it runs beside others, which alone is timed


@dataclass(frozen=True)
class Comparison:
    """One contestant's latency, and how much faster ours is."""

    key: str
    name: str
    note: str
    median: float  # milliseconds
    fastest: float
    samples: int
    speedup: float | None  # its latency over ours
    interval: str | None  # of the speed-up, in words


def headline(report: Mapping[str, Any]) -> str:
    """The whole report in one sentence."""
    device, model = report["device"], report["model"]["name"]
    cores = f"{device['cores']} {'core' if device['cores'] == 1 else 'cores'}"
    where = f"{model} on {device['name']} ({device['model']}, {cores})" if device.get("model") else f"{model} ({cores})"
    return f"{where}: {', '.join(_claims(report))}; {checked(report)}."


def checked(report: Mapping[str, Any]) -> str:
    """Whether the result is right, in a few words."""
    verification = report["verification"]
    if verification is None:
        return "simulated, nothing was run"
    word = "verified" if verification["passed"] else "NOT verified"
    return f"{word}, error {error(verification['max_rel_error'])}"


def _claims(report: Mapping[str, Any]) -> list[str]:
    factors, claims = report["speedup"], []
    peer, own = factors.get("over_onnxruntime"), factors.get("over_unoptimised")
    if peer is not None:
        ends, rounds = factors.get("over_onnxruntime_interval"), factors.get("over_onnxruntime_rounds")
        claims.append(against(peer, ends, "ONNX Runtime", rounds))
    if own is not None:
        claims.append(against(own, None, "unoptimised"))
    tuned = report["latency_ms"].get("tuned")
    return claims or ([f"{ms(tuned['median'])} a run"] if tuned else ["no latency measured"])


def against(factor: float, interval: Sequence[float] | None, name: str, rounds: int | None = None) -> str:
    """How two latencies compare. What the interval does not tell apart is said to be as fast."""
    if interval is not None and interval[0] <= 1.0 <= interval[1]:
        return f"as fast as {name} ({speedup(factor)}; {interval_words(interval, rounds)})"
    if factor >= 1.0:
        return f"{speedup(factor)} faster than {name}"
    return f"{speedup(1 / factor)} slower than {name}"


def comparisons(report: Mapping[str, Any]) -> list[Comparison]:
    """All contestants that were timed, ours first."""
    latencies, factors = report["latency_ms"], report["speedup"]
    found = []
    for key, name in NAMES.items():
        entry = latencies.get(key)
        if entry is not None:
            ends = factors.get(f"over_{key}_interval")
            found.append(
                Comparison(
                    key, name, NOTES[key], entry["median"], entry["min"], entry["samples"], factors.get(f"over_{key}"),
                    interval_words(ends, factors.get(f"over_{key}_rounds")) if ends else None,
                )
            )  # fmt: skip
    return found


def left_out(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, reason) of the baselines that the job did not build; reports of old know of none."""
    return [(NAMES.get(key, key), why) for key, why in report.get("left_out", {}).items()]


def marks(unoptimised: float | None, onnxruntime: float | None, roofline: float | None = None) -> list[Mark]:
    """Lines to compare the best latency with; all in seconds."""
    known = (("unoptimised", "unoptimised", unoptimised), ("onnxruntime", "ONNX Runtime", onnxruntime),
             ("roofline", "roofline bound", roofline))  # fmt: skip
    return [Mark(kind, name, value * 1e3) for kind, name, value in known if value is not None]


def rows(
    report: Mapping[str, Any],
    network: Network | None,
    tried: Mapping[str, Tried],
    peak: float | None = None,
    bandwidth: float | None = None,
) -> list[Row]:
    """Kernels heaviest first; views take no time and are left out.

    ``tried`` is by workload hash; ``peak`` (operations a second) and ``bandwidth`` (bytes a second) are the device's.
    """
    boxes = {box.ids: (number, box) for number, box in enumerate(network.boxes)} if network else {}
    found = []
    for block in report["blocks"]:
        if block["template"] == "view":
            continue
        number, box = boxes.get(tuple(block["layers"]), (None, None))
        attempts = tried.get(box.workload) if box else None
        roof, bound = roofline(box, block["ms"], peak, bandwidth)
        found.append(
            Row(
                box=number,
                title=box.title if box else (block["layers"][0] if block["layers"] else "layout change"),
                layers=tuple(block["layers"]),
                ops=box.ops if box else None,
                ms=block["ms"],
                share=block["share"],
                gflops=block["gflops"] or None,
                roof=roof,
                bound=bound,
                cores=block["cores"],
                layout=_layout(block["layouts"]),
                template=block["template"],
                knobs=" ".join(f"{k}={v}" for k, v in (block["knobs"] or {}).items()),
                gain=_gain(attempts),
                tried=attempts,
                together=(block.get("together") or {}).get("ms"),
            )
        )
    return sorted(found, key=lambda row: -(row.ms or row.together or 0.0))


def roofline(
    box: Box | None, milliseconds: float | None, peak: float | None, bandwidth: float | None
) -> tuple[float | None, str | None]:
    """(share of the bound that binds, which one): Williams, Waterman and Patterson (2009).

    The least time is the longer of computing at the device's peak and moving all bytes once at its bandwidth.
    """
    if box is None or not milliseconds or not peak or not bandwidth:
        return None, None
    compute, memory = box.ops / peak, box.bytes / bandwidth
    return max(compute, memory) / (milliseconds / 1e3), "compute" if compute >= memory else "memory"


def bound_seconds(network: Network, peak: float | None, bandwidth: float | None) -> float | None:
    """What the whole model cannot go below on this device, block by block."""
    if not peak or not bandwidth:
        return None
    return sum(max(box.ops / peak, box.bytes / bandwidth) for box in network.boxes if not box.view)


def _gain(tried: Tried | None) -> float | None:
    if tried is None or tried.default is None or not tried.best:
        return None
    return tried.default / min(tried.best.values())


def _layout(layouts: Mapping[str, str]) -> str:
    """Layouts of what a block reads and writes, once where they are the same."""
    into = sorted({layout for name, layout in layouts.items() if name.startswith("i")})
    out = sorted({layout for name, layout in layouts.items() if not name.startswith("i")})
    return "/".join(into) if into == out else f"{'/'.join(into)} → {'/'.join(out)}"


def trust(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Reasons to believe the result: (what, value, note)."""
    checks, tuned, trials = report["verification"], report["latency_ms"].get("tuned"), report["trials"]
    factors, device = report["speedup"], report["device"]
    facts: list[tuple[str, str, str]] = []
    if checks is not None:
        facts.append(
            (
                "Error against ONNX Runtime",
                f"{error(checks['max_rel_error'])} relative, {error(checks['max_abs_error'])} absolute",
                f"limit {error(checks['limit'])}; largest over {checks['inputs']} input sets and all outputs",
            )
        )
        if top1 := checks.get("top1"):
            facts.append(("Top-1 class", f"the same in {top1['agree']} of {top1['of']}", "rows of the outputs"))
    if report.get("rounding") is not None:
        facts.append(_lowered(report))
    if trials["measured"]:
        good = f"{trials['measured'] - trials['failed']:,} of {trials['measured']:,}"
        facts.append(("Verified candidates", good, "every kernel's output is checked before its time counts"))
    if tuned:
        spread = tuned["median"] / tuned["min"] - 1 if tuned["min"] else 0.0
        facts.append(
            (
                "Spread of the final measurement",
                f"median {100 * spread:.1f}% above the fastest",
                f"{tuned['samples']} samples of {ms(tuned['median'])}, in turns with the others",
            )
        )
    if factors.get("over_onnxruntime_interval"):
        words = interval_words(factors["over_onnxruntime_interval"], factors.get("over_onnxruntime_rounds"))
        facts.append(("Speed-up over ONNX Runtime", words, "compared in pairs, round by round"))
    state = report.get("machine") or {}
    if state.get("steal") is not None:
        taken = f"{100 * state['steal']:.1f}% of the processors' time taken by other guests"
        busy = f"{100 * state['busy']:.0f}% busy, this job included; load {state['load']}"
        facts.append(("Machine during the job", taken, f"{busy}; {state['disturbed_samples']} samples disturbed"))
    cores = f"{device['cores']} {'core' if device['cores'] == 1 else 'cores'}"
    facts += [
        ("Device", f"{device.get('model') or device['name']}, {cores}", f"fingerprint {device['fingerprint']}"),
        ("Toolchain", report["toolchain"], f"measurement protocol {report['protocol']}, {report['precision']}"),
    ]
    return facts


def _lowered(report: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a job in bf16 or int8 computes so, and at what price."""
    rounding, blocks = report["rounding"], [b for b in report["blocks"] if b["template"] != "view"]
    lowered = sum(b["precision"] != FP32 for b in blocks)
    every, kept = rounding["error_of_all"], len(rounding["kept_fp32"])
    note = f"rounding all weights makes an error of {error(every)}" if every is not None else "no error can be told"
    if kept:
        note += f", so that {kept} {'layer keeps' if kept == 1 else 'layers keep'} float32"
    value = f"{lowered} of {len(blocks)} blocks"
    if stored := rounding.get("stored_bf16"):  # none in reports of earlier versions
        value += f", {stored} of {rounding['images']} images"
    return f"In {report['precision']}", value, note


def time_spent(report: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Seconds building, measuring and deciding, which overlap: shares of the work, not parts of the total."""
    seconds = report["seconds"]
    return [(name.capitalize(), seconds[name]) for name in ("building", "measuring", "deciding") if seconds.get(name)]


def tried_for(groups: Iterable[Group], *, fresh: bool) -> dict[str, Tried]:
    """What was tried for each workload.

    The first trial of a question is its template's default, unless stored results took its place (not ``fresh``). The
    planned template's question at the most cores comes first of all.
    """
    found: dict[str, Tried] = {}
    for group in sorted(groups, key=lambda g: g.id):
        old = found.get(group.workload)
        best = dict(old.best) if old else {}
        if group.best is not None:
            best[group.template] = min(group.best, best.get(group.template, group.best))
        default = old.default if old else (group.first if fresh and group.first_purpose is Purpose.SEARCH else None)
        trials, failed = (old.trials, old.failed) if old else (0, 0)
        found[group.workload] = Tried(trials + group.trials, failed + group.failed, best, default)
    return found
