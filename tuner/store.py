"""What the engine asks of a store: ``db.Store`` fulfils it, and ``NoStore`` for use as a library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from tuner.types import Trial


class TrialStore(Protocol):
    """Trials of one job on one device and toolchain."""

    def known(self, record_keys: Collection[str]) -> Sequence[Trial]:
        """Stored trials of these questions on this device, toolchain and protocol, by whichever job."""

    def mine(self) -> Sequence[Trial]:
        """What this job itself measured before it was interrupted, in that order; nothing when it is new."""

    def add(self, trial: Trial) -> None:
        """Keep a trial; it survives whatever happens next."""


class NoStore:
    """Forgets everything."""

    def known(self, record_keys: Collection[str]) -> Sequence[Trial]:
        return ()

    def mine(self) -> Sequence[Trial]:
        return ()

    def add(self, trial: Trial) -> None:
        return None
