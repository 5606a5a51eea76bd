"""A job on a GPU of the server's machine or of its cluster: rounds of building and measuring, under the job's lease."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.blobs import Blobs
from db.queue import Claim
from db.store import Store
from service.commands.gpu_roof import at_first
from service.commands.gpu_trials import PROTOCOL
from service.dispatch.results import JSON, ZIP, packed
from tuner.events import Watch
from tuner.types import Device, JobSpec, Trial

if TYPE_CHECKING:
    from tuner.measure.cluster.place import OnCluster

CUDA = "cuda"  # Device.kind of GPUs
Files = dict[str, tuple[str, int, str]]  # name -> (sha256, bytes, media type)


class GpuJobStore:
    """Fulfils tuner.store.TrialStore for one job on a GPU; refuses to write once another driver has taken it over."""

    def __init__(self, store: Store, claim: Claim, device: Device, toolchain: str) -> None:
        self._store, self._claim, self._device, self._toolchain = store, claim, device, toolchain

    def known(self, record_keys: Collection[str]) -> Sequence[Trial]:
        return self._store.trials.of_records(
            record_keys, device=self._device.fingerprint, toolchain=self._toolchain, protocol=PROTOCOL
        )

    def mine(self) -> Sequence[Trial]:
        return self._store.trials.mine(self._claim.job)

    def add(self, trial: Trial) -> None:
        self._store.trials.add(
            self._claim.job, trial, device=self._device.fingerprint, toolchain=self._toolchain, protocol=PROTOCOL,
            summary=str(trial.candidate.workload.get("function", "")), claim=self._claim,
        )  # fmt: skip


def tune(
    spec: JobSpec, model: Path, device: Device, store: Store, claim: Claim, watch: Watch,
    turn: Callable[[str], AbstractContextManager[None]], place: OnCluster | None = None,
) -> tuple[dict[str, Any], Path]:  # fmt: skip
    """Work on the job; its report, and the artifact's folder. Raises what tuner.gpu.rounds raises.

    ``place``: where the GPU is, if it is not here.
    """
    from tuner.gpu.rounds import Rounds
    from tuner.measure.device import toolchain

    out = model.with_suffix(".fusetune")
    spec = replace(spec, strategy="metaschedule")
    rounds = Rounds(spec, model, device, out, watch, GpuJobStore(store, claim, device, toolchain()), turn)
    if place is not None:
        rounds.measure, rounds.time = place.gpu.measure, place.gpu.time
    with turn("its roof"):
        rounds.roof = at_first(store, device, spec.budget, rounds.measure)
    return rounds.run(), out


def keep(out: Path, blobs: Blobs) -> Files:
    """The artifact and its report as blobs. The plan stays in the former: it names kernels, not the model's layers."""
    archive = packed(out, blobs)
    with (out / "report.json").open("rb") as file:
        report = blobs.put(file)
    return {"artifact.zip": (archive.sha256, archive.size, ZIP), "report.json": (report.sha256, report.size, JSON)}
