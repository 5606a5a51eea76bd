"""report.json of a build for a GPU that is not here: the keys of other reports, null where nothing was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.build.verify import Verification
from tuner.gpu.bundle import Results
from tuner.gpu.cuda import Built
from tuner.gpu.explore import Seen
from tuner.gpu.lower import Task
from tuner.gpu.planning import Planned
from tuner.graph.load import ImportedModel
from tuner.report import LATENCIES, preamble
from tuner.types import PROTOCOL, Device, JobSpec, Trial

GPU_README = """\
This folder holds a neural network built by fusetune for one GPU (see "device" in manifest.json). Whether it was timed
on one says "measured" there; the report has the times.

model.so + cubins/      the code that launches kernels, and the kernels
params.bin              the weights, each at its offset in manifest.json
plan.json               which kernels run side by side, and on how many SMs each
manifest.json           inputs, outputs, checksums
report.json             how it was built, what was checked, what is expected of each kernel
trials.jsonl            candidates that were measured elsewhere, or failed
bundle/                 candidates to measure where the GPU is: bundle/README.txt
"""


@dataclass(frozen=True)
class Chosen:
    """The candidate of one task that went into the model."""

    task: Task
    seen: Seen
    predicted: float  # seconds
    error: float | None  # relative, as emulated on the CPU; None where that was not done
    built: Built | None  # None: time was out, and the whole model's build alone compiled it
    trial: Trial | None = None  # of an earlier round
    fewer: Mapping[int, float] = field(default_factory=dict)  # number of SMs -> seconds of it measured on so many
    names: tuple[str, ...] = ()  # of the functions that a chain does at once

    def to_json(self) -> dict[str, Any]:
        candidate, counts = self.seen.candidate, self.seen.looked.counts
        seconds = self.trial.seconds if self.trial else None
        cubins = self.built.cubins.values() if self.built else ()
        return {
            "function": self.task.name,
            "layers": list(self.names or [self.task.name]),  # TVM's functions: which layers they fuse nobody keeps
            "layouts": {},
            "workload": self.task.hash,
            "calls": self.task.calls,
            "template": candidate.template,
            "knobs": dict(candidate.knobs),
            "cores": candidate.cores,
            "ms": None if seconds is None else seconds * 1e3,
            "predicted_ms": self.predicted * 1e3,
            "gflops": counts.operations / seconds / 1e9 if seconds else None,
            "checked_error": self.error,
            "blocks": counts.blocks,
            "threads": counts.threads,
            "registers": max((c.registers for c in cubins), default=None),
            "shared_bytes": max((c.shared for c in cubins), default=None),
            "spilled_bytes": self.built.spills if self.built else None,
            "ms_by_cores": {str(cores): 1e3 * seconds for cores, seconds in self.fewer.items()},
            "tensor_cores": bool(counts.tensor_operations),
        }


def build_report(
    spec: JobSpec, model: ImportedModel, device: Device, toolchain: str, chosen: Sequence[Chosen],
    trials: Sequence[Trial], known: Results, verification: Verification, *, explored: int, refused: int, bundled: int,
    learned: int, seconds: float, unexplored: Mapping[str, str], reused: int, planned: Planned,
    chains: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The report as JSON values.

    ``known`` is what earlier rounds measured, ``trials`` that and what failed here, ``unexplored`` why there was no
    design space, by name of the task; ``chains`` what came of them.
    """
    whole = sum(c.predicted * c.task.calls for c in chosen) or 1.0
    blocks = [c.to_json() | {"share": c.predicted * c.task.calls / whole} for c in chosen]
    return preamble(spec, model, device, toolchain, PROTOCOL) | {
        "measured": False,
        "trials": {
            "measured": len(known.trials) - reused,
            "failed": sum(t.failure is not None for t in trials),
            "reused": reused,
            "failures": dict(Counter(t.failure.kind.value for t in trials if t.failure is not None)),
        },
        "seconds": {"total": seconds},
        "latency_ms": dict.fromkeys(LATENCIES),
        "speedup": dict.fromkeys(("over_unoptimised", "over_onnxruntime")),
        "predicted_ms": sum(c.predicted * c.task.calls for c in chosen) * 1e3,
        "plan": planned.plan.hash if planned.plan else None,
        "launches": _launches(planned),
        "chains": dict(chains),
        "ranking": {"explored": explored, "refused": refused, "learned_from": learned, "bundled": bundled},
        "cost_model": None,  # how well times were foreseen: the ranking says on how many it rests
        "unexplored": dict(unexplored),
        "measured_on": [dict(d) for d in known.devices],
        "verification": verification.to_json() | {"on": "cpu"},
        "blocks": blocks,
    }


def _launches(planned: Planned) -> dict[str, Any]:
    stages = planned.plan.stages if planned.plan else ()
    known = planned.program is not None
    return {
        "cuda_graph": known,
        "why": planned.why,
        "stages_of_several": sum(len(stage.lanes) > 1 for stage in stages),
        "kernels_side_by_side": sum(len(lane.blocks) for s in stages if len(s.lanes) > 1 for lane in s.lanes),
        "predicted_ms": 1e3 * planned.seconds if known else None,
        "predicted_in_turn_ms": 1e3 * planned.in_turn if known else None,
    }
