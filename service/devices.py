"""Devices as users see them: what each is, whether somebody drives it, what it does and what waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from db.devices import KnownDevice
from db.health import DeviceHealth
from db.overview import Load, Overview
from db.store import Store
from db.turns import Turn
from tuner.errors import UserError


@dataclass(frozen=True)
class DeviceStatus:
    """A device at this moment."""

    known: KnownDevice
    available: bool  # some live server drives it
    turn: Turn | None  # what it measures now
    load: Load
    records: int  # questions with a stored answer
    health: DeviceHealth | None = None  # what its calibration kernel said last; None = it was never timed

    @property
    def drifting(self) -> bool:
        """Whether it was slower than usual when it last measured."""
        return self.health is not None and self.health.drifting_since is not None


class DeviceBoard:
    """All devices of one database. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store, self.overview = store, Overview(store.database)

    def get(self, name: str) -> DeviceStatus:
        """The device of this fingerprint or name; of several with one name, one that is driven, else the one seen last.

        Raises:
            UserError: ``unknown-device``.
        """
        return self._status([self.find(name)])[0]

    def find(self, name: str) -> KnownDevice:
        """As ``get``, without what it does now."""
        known = self._store.devices.get(name)
        if known is not None:
            return known
        named = self._store.devices.list(name=name, limit=100)
        if not named:
            raise UserError(f"There is no device {name!r}.", code="unknown-device")
        return next((each for each in named if each.available), named[0])

    def list(self) -> list[DeviceStatus]:
        """Every device, those that a server drives first, then those seen last."""
        found = self._status(self._store.devices.list())
        return sorted(found, key=lambda status: not status.available)

    def _status(self, devices: Sequence[KnownDevice]) -> Sequence[DeviceStatus]:
        load, records, health = self.overview.load(), self.overview.questions(), self._store.health.newest()
        return [
            DeviceStatus(
                known, known.available, self._store.turns.current(known.device.fingerprint),
                load.get(known.device.fingerprint, Load()), records.get(known.device.fingerprint, 0),
                health.get(known.device.fingerprint),
            )
            for known in devices
        ]  # fmt: skip
