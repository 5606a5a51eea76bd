"""A store as a service has it after a while: models, two devices, jobs in every state, their trials and records.

Written through the same calls as by the service. One job has the report and graph of a real run (tests/data).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from db.moves import Claim
from db.store import Store
from tuner.types import (
    Budget,
    Candidate,
    Device,
    Failure,
    FailureKind,
    JobSpec,
    JobState,
    Purpose,
    Trial,
    digest,
)

DATA = Path(__file__).parent / "data"
TOOLCHAIN = "tvm-0.27.0"
DOING = "measuring block 14 of 56: Conv+Relu 3x3 256 -> 256 at 14x14, 6 cores"
LEASE = 3600.0  # seconds: nobody renews what is seeded
HOLDER = "seed"
NASTY = "<script>alert(\"1\")</script> & 'co'"
DEVICE = Device(
    "cpu", "cpu", "AMD EPYC 7B13 64-Core Processor", "znver3", ("avx2", "fma"), 12, 8, 16,
    32 << 10, 512 << 10, 32 << 20, 64 << 30,
)  # fmt: skip
OLD_DEVICE = replace(DEVICE, name="xeon-4214r", model="Intel Xeon Silver 4214R CPU @ 2.40GHz", mcpu="cascadelake")

# Name, layers, multiply-accumulates, bytes of the file.
MODELS = (
    ("squeezenet", 65, 349_151_712, 4_948_448),
    ("resnet50", 122, 4_089_184_256, 102_469_419),
    ("inception_v1", 142, 1_582_671_872, 28_010_010),
    ("densenet121", 429, 2_834_161_664, 32_670_802),
    ("vgg19", 46, 19_632_062_464, 574_673_068),
    ("shufflenet", 203, 124_690_000, 5_708_081),
    (NASTY, 3, 1_200, 900),
)
# Operator and sizes of a workload, its template.
WORKLOADS = (
    ("Conv+Relu 3x3 64 -> 64 at 56x56", "conv2d"),
    ("Conv+Relu 1x1 256 -> 64 at 56x56", "conv2d"),
    ("Conv+Add+Relu 1x1 64 -> 256 at 56x56", "conv2d"),
    ("Conv+Relu 3x3 256 -> 256 at 14x14", "winograd"),
    ("MaxPool -> 1x64x56x56", "pool"),
    ("Gemm -> 1x1000", "dense"),
)


@dataclass(frozen=True)
class Seeded:
    """What was put in; jobs by a name that says what they are, models by theirs."""

    jobs: Mapping[str, str]
    models: Mapping[str, str]
    device: str  # fingerprint
    old_device: str


def report() -> dict[str, Any]:
    """The report of a real run of squeezenet."""
    found: dict[str, Any] = json.loads((DATA / "squeezenet_report.json").read_text())
    return found


def graph() -> dict[str, Any]:
    """The Graph of that run's model."""
    found: dict[str, Any] = json.loads((DATA / "squeezenet_graph.json").read_text())
    return found


def seed(store: Store) -> Seeded:
    """Fill an empty store."""
    _devices(store)
    models = {name: _model(store, *rest) for name, *rest in ((each[0], *each) for each in MODELS)}
    jobs: dict[str, str] = {}

    def submit(key: str, model: str, *, trials: int | None = None, seconds: float | None = None, **more: Any) -> str:
        device = more.pop("device", DEVICE)
        spec = JobSpec(models[model], device.name, "greedy", Budget(trials, seconds), **more.pop("spec", {}))
        job, _ = store.jobs.submit(
            spec, device.fingerprint, TOOLCHAIN, model_name=model, device_name=device.name, **more
        )
        jobs[key] = job.id
        return job.id

    def start(key: str) -> Claim:
        return store.queue.start(jobs[key], HOLDER, LEASE)

    submit("old", "resnet50", seconds=900, device=OLD_DEVICE, notes="before the new memory")
    _succeed(store, start("old"), OLD_DEVICE, best=0.0179, onnxruntime=0.0254, unoptimised=0.154, trials=12)

    submit("real", "squeezenet", seconds=60)
    _succeed(store, start("real"), DEVICE, best=0.006537, onnxruntime=0.0051211, unoptimised=0.0129999, trials=40,
             with_report=report())  # fmt: skip

    submit("failures", "shufflenet", trials=200, notes="does the new template crash less?")
    _succeed(store, start("failures"), DEVICE, best=0.00182, onnxruntime=0.00259, unoptimised=0.0157, trials=24,
             failing=True)  # fmt: skip

    submit("nasty", NASTY, seconds=60, notes=NASTY)
    claim = start("nasty")
    store.queue.progress(claim, stage="import", message="reading the model", elapsed=0.4)
    store.queue.finish(claim, JobState.FAILED, reason=f"The operator {NASTY} is not supported.")

    submit("failed", "vgg19", seconds=300)
    for _ in range(3):
        claim = start("failed")
        store.queue.progress(
            claim, stage="search", message="measuring block 3 of 24", elapsed=31.0, measured=4, failed=4
        )
        store.queue.crashed(claim, "The tuner died of signal 9: the machine ran out of memory.", "Killed\n", limit=3)

    submit("cancelled", "densenet121", seconds=600)
    claim = start("cancelled")
    _work(store, claim, DEVICE, best=0.0291, share=0.4, trials=10)
    store.jobs.request(jobs["cancelled"], "cancel")
    store.queue.finish(claim, JobState.CANCELLED, reason="Cancelled on request; the best found so far is kept.")

    submit("cancelled early", "vgg19", seconds=600)
    store.jobs.request(jobs["cancelled early"], "cancel")

    submit("paused", "inception_v1", seconds=600, spec={"cores": (1, 2, 4)})
    claim = start("paused")
    _work(store, claim, DEVICE, best=0.0112, share=0.3, trials=8)
    store.jobs.request(jobs["paused"], "pause")
    store.queue.release(claim)

    real = store.jobs.get(jobs["real"])
    submit("reused", "squeezenet", seconds=60, answer=real)

    submit("cancelling", "densenet121", trials=500)
    _work(store, start("cancelling"), DEVICE, best=0.0262, share=0.7, trials=6)
    store.jobs.request(jobs["cancelling"], "cancel")

    submit("running", "resnet50", seconds=900)
    claim = start("running")
    _work(store, claim, DEVICE, best=0.0213, share=0.62, trials=30, reused=38)
    store.turns.take(DEVICE.fingerprint, claim, LEASE, "Conv+Relu 3x3 256 -> 256 at 14x14, 6 cores")

    submit("starting", "inception_v1", seconds=300)
    start("starting")

    submit("queued", "vgg19", seconds=300, priority=5, notes="urgent")
    submit("queued too", "densenet121", spec={"fresh": True})
    return Seeded(jobs, models, DEVICE.fingerprint, OLD_DEVICE.fingerprint)


def _devices(store: Store) -> None:
    for device in (OLD_DEVICE, DEVICE):
        store.devices.put(device)
    store.devices.measured(DEVICE.fingerprint, peak_flops=412e9, bandwidth=38.4e9)
    store.devices.offer(DEVICE.fingerprint, HOLDER, LEASE)


def _model(store: Store, name: str, layers: int, macs: int, size: int) -> str:
    sha256 = report()["model"]["sha256"] if name == "squeezenet" else digest(name)
    details = {
        "ops": {"Conv": layers // 2, "Relu": layers // 3, "MaxPool": 3, "Concat": 8},
        "unsupported": [{"layer": "Resize_1", "op": "Resize", "why": "no template of ours: built by TVM, not tuned"}],
        "gmacs": macs / 1e9,
        "parameters": size // 4,
        "device": DEVICE.fingerprint,
        "blocks": layers // 2,
        "questions": [[candidate(number, 0).record_key] for number in range(len(WORKLOADS) + 3)],
    }
    if name != "inception_v1":
        details["unsupported"] = []
    store.models.put(
        sha256, name=name, layers=layers, macs=macs, size=size,
        inputs=[{"name": "data", "dtype": "float32", "shape": [1, 3, 224, 224], "open": name == "resnet50"}],
        outputs=[{"name": "softmax", "dtype": "float32", "shape": [1, 1000]}],
        details=details, graph=graph() if name == "squeezenet" else None,
    )  # fmt: skip
    return sha256


def candidate(workload: int, knob: int, cores: int = 2) -> Candidate:
    """A candidate for one of WORKLOADS (and further, unnamed ones); ``knob`` tells those of a question apart."""
    template = WORKLOADS[workload][1] if workload < len(WORKLOADS) else "conv2d"
    canonical = {"op": "Conv", "shape": [1, 64, 56, 56 + workload]}
    return Candidate(
        canonical, digest(canonical), {"i0": "NCHW16c", "t0": "plain"}, template, 1,
        {"oc_t": 2, "reg_n": 4 + knob, "rows": 2}, cores,
    )  # fmt: skip


def trials_of(number: int, *, failing: bool = False) -> list[Trial]:
    """So many different trials, better and worse ones; with ``failing`` every fourth one failed, in four ways."""
    kinds = (FailureKind.CRASH, FailureKind.TIMEOUT, FailureKind.WRONG, FailureKind.BUILD)
    made = []
    for index in range(number):
        what = candidate(index % len(WORKLOADS), index // len(WORKLOADS), cores=1 if index % 3 else 2)
        purpose = Purpose.CORES if index % 7 == 6 else Purpose.SEARCH
        if failing and index % 4 == 3:
            kind = kinds[index // 4 % len(kinds)]
            failure = Failure(kind, f"it ended badly ({kind.value})", f"last words of <b>{index}</b>\nsignal 11")
            made.append(Trial(what, purpose, failure=failure, build_seconds=0.6, measure_seconds=0.2))
            continue
        seconds = 2e-4 * (1 + index % 6) * (1 + 0.4 * math.cos(1.7 * index) ** 2)
        samples = tuple(seconds * (1 + 0.01 * (sample % 3)) for sample in range(9))
        made.append(
            Trial(what, purpose, samples, max_rel_error=4e-7, build_seconds=0.6, measure_seconds=0.3,
                  predicted=seconds * (1.3 if index % 2 else 0.8))
        )  # fmt: skip
    return made


def curve(best: float, seconds: float, trials: int, points: int = 16) -> list[list[float]]:
    """A best latency that falls as 1 / (1 + t) to ``best``."""
    steps = [(number + 1) / points for number in range(points)]
    return [[round(seconds * t, 2), round(trials * t), best * (1 + 1.6 * (1 - t) ** 3)] for t in steps]


def _work(
    store: Store, claim: Claim, device: Device, *, best: float, share: float, trials: int, reused: int = 0,
    failing: bool = False,
) -> None:  # fmt: skip
    """Some trials, and the progress that they are."""
    made = trials_of(trials, failing=failing)
    for trial in made:
        summary = next(s for n, (s, _) in enumerate(WORKLOADS) if candidate(n, 0).workload == trial.candidate.workload)
        store.trials.add(claim.job, trial, device=device.fingerprint, toolchain=TOOLCHAIN, summary=summary, claim=claim)
    store.queue.progress(
        claim, event=True, stage="search", message=DOING,
        done=round(300 * share), total=300, unit="seconds", measured=trials,
        failed=sum(trial.failure is not None for trial in made), reused_trials=reused, best_seconds=best,
        elapsed=300 * share, curve=curve(best, 300 * share, trials),
    )  # fmt: skip


def _succeed(
    store: Store, claim: Claim, device: Device, *, best: float, onnxruntime: float, unoptimised: float, trials: int,
    failing: bool = False, with_report: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    _work(store, claim, device, best=best, share=1.0, trials=trials, failing=failing)
    store.queue.progress(
        claim, stage="export", message="done", onnxruntime_seconds=onnxruntime, unoptimised_seconds=unoptimised,
        best_seconds=best, done=300, total=300, unit="seconds", elapsed=301.5,
    )  # fmt: skip
    store.queue.finish(claim, JobState.SUCCEEDED, best_seconds=best, report=with_report)
