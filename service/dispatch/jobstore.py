"""One job's view of the store: what the engine needs of it, with job, device and toolchain filled in."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from db.store import Store
from tuner.types import Device, JobSpec, JobState, Trial


class JobStore:
    """Fulfils tuner.store.TrialStore for one job."""

    def __init__(self, store: Store, spec: JobSpec, device: Device, toolchain: str) -> None:
        self._store, self._device, self._toolchain = store, device, toolchain
        store.devices.put(device)
        self.job = store.jobs.add(spec, device.fingerprint, toolchain)
        store.jobs.update(self.job, state=JobState.RUNNING)

    def known(self, record_keys: Collection[str]) -> Sequence[Trial]:
        return self._store.trials.of_records(record_keys, device=self._device.fingerprint, toolchain=self._toolchain)

    def add(self, trial: Trial) -> None:
        self._store.trials.add(self.job, trial, device=self._device.fingerprint, toolchain=self._toolchain)

    def answered(self, spec: JobSpec) -> bool:
        """Whether an equal job has already ended well on this device with at least this budget."""
        device = self._device.fingerprint
        ended = self._store.jobs.list(state=JobState.SUCCEEDED, device=device, question=spec.question)
        return any(job.toolchain == self._toolchain and _covers(job.spec, spec) for job in ended)


def _covers(done: JobSpec, asked: JobSpec) -> bool:
    """Whether the budget of ``done`` was at least that of ``asked``, in the same terms."""
    pairs = ((done.budget.trials, asked.budget.trials), (done.budget.seconds, asked.budget.seconds))
    return all(d is None or (a is not None and a <= d) for d, a in pairs)
