"""What bundles brought back, in the database: trials of no job, because they were measured elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from db.store import Store
from tuner.types import Device, Trial

PROTOCOL = "bundle-1"  # how tuner.gpu.bundle_run measures: kernels behind one another, inputs that stay where they are


class GpuTrials:
    """Fulfils tuner.store.TrialStore for builds for a GPU that is not here."""

    def __init__(self, store: Store, device: Device, toolchain: str) -> None:
        self._store, self._device, self._toolchain = store, device, toolchain
        store.devices.put(device)

    def known(self, record_keys: Collection[str]) -> Sequence[Trial]:
        return self._store.trials.of_records(
            record_keys, device=self._device.fingerprint, toolchain=self._toolchain, protocol=PROTOCOL
        )

    def mine(self) -> Sequence[Trial]:
        return ()

    def add(self, trial: Trial) -> None:
        workload = trial.candidate.workload
        self._store.trials.add(
            None, trial, device=self._device.fingerprint, toolchain=self._toolchain, protocol=PROTOCOL,
            summary=str(workload.get("function", "")),
        )  # fmt: skip
