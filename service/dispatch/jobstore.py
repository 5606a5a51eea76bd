"""One job's view of the store: what the engine needs of it, with job, claim, device and toolchain filled in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from db.queue import Claim
from db.store import Store
from tuner.types import Device, Trial

log = logging.getLogger(__name__)


class JobStore:
    """Fulfils tuner.store.TrialStore for one job; refuses to write once another driver has taken the job over."""

    def __init__(
        self, store: Store, claim: Claim, device: Device, toolchain: str, describe: Callable[..., str] = lambda _: ""
    ) -> None:
        self._store, self._claim, self._device, self._toolchain = store, claim, device, toolchain
        self._describe = describe  # workload -> a few words
        self._described: dict[str, str] = {}

    def known(self, record_keys: Collection[str]) -> Sequence[Trial]:
        return self._store.trials.of_records(record_keys, device=self._device.fingerprint, toolchain=self._toolchain)

    def mine(self) -> Sequence[Trial]:
        return self._store.trials.mine(self._claim.job)

    def add(self, trial: Trial) -> None:
        workload = trial.candidate.workload_hash
        if workload not in self._described:
            self._described[workload] = self._describe(trial.candidate.workload)
        id = self._store.trials.add(
            self._claim.job, trial, device=self._device.fingerprint, toolchain=self._toolchain,
            summary=self._described[workload], claim=self._claim,
        )  # fmt: skip
        if trial.failure is not None:
            what = self._described[workload] or trial.candidate.template
            # A candidate's process may have written anything: one line stays one line.
            said = " ".join(trial.failure.message.split())
            log.info(
                "trial failed (%s): %s: %s", trial.failure.kind.value, what, said,
                extra={"job": self._claim.job, "trial": str(id)},
            )  # fmt: skip
