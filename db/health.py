"""The health of devices: what their calibration kernel took lately, one row per device, toolchain and protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Select, select

from db.columns import now
from db.engine import Database
from db.schema import devices, health
from tuner.types import PROTOCOL

_CHANGES = ("readings", "usual", "ratio", "drifting_since", "updated_at")


class Verdict(Protocol):
    """What readings say (``tuner.measure.health.Condition``)."""

    @property
    def usual(self) -> float | None: ...
    @property
    def ratio(self) -> float: ...
    @property
    def drifting(self) -> bool: ...


Judge = Callable[[Sequence[float], bool], Verdict]  # of readings, and of whether the device drifted before


@dataclass(frozen=True)
class DeviceHealth:
    """What is known of one device."""

    readings: Sequence[float]  # seconds of the calibration kernel, oldest first
    usual: float | None  # seconds; None = too few readings to say
    ratio: float  # what it took lately over that
    drifting_since: datetime | None  # UTC, as is updated_at; None = it does not drift
    updated_at: datetime


class Health:
    """The health table. A device is put before anything is noted of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(
        self, device: str, toolchain: str, readings: Sequence[float], judge: Judge, *, keep: int,
        protocol: str = PROTOCOL,
    ) -> DeviceHealth:  # fmt: skip
        """Add readings (seconds, oldest first) to the newest ``keep``, and note what ``judge`` makes of them all.

        Raises:
            InternalError: the device is not stored (``database-invariant``).
        """
        moment = now()
        with self._database.write() as connection:
            # Two who note at once would lose what one of them knows: the device's row is what they take turns on.
            lock = select(devices.c.fingerprint).where(devices.c.fingerprint == device)
            connection.execute(lock.with_for_update(key_share=True))
            row = connection.execute(_query(device, toolchain, protocol)).one_or_none()
            known = None if row is None else DeviceHealth(**row._mapping)
            since = known.drifting_since if known else None
            every = [*(known.readings if known else ()), *readings][-keep:]
            verdict = judge(every, since is not None)
            found = DeviceHealth(
                every, verdict.usual, verdict.ratio, (since or moment) if verdict.drifting else None, moment
            )
            place = {"device": device, "toolchain": toolchain, "protocol": protocol}
            self._database.upsert(connection, health, place | vars(found), update=_CHANGES)
        return found

    def get(self, device: str, toolchain: str, protocol: str = PROTOCOL) -> DeviceHealth | None:
        """What is known of the device with this fingerprint, or None."""
        with self._database.read() as connection:
            row = connection.execute(_query(device, toolchain, protocol)).one_or_none()
        return None if row is None else DeviceHealth(**row._mapping)

    def newest(self, protocol: str = PROTOCOL) -> dict[str, DeviceHealth]:
        """Fingerprint -> what was noted last of the device, for all of which something was."""
        columns = [health.c.device, *(health.c[name] for name in _CHANGES)]
        query = select(*columns).where(health.c.protocol == protocol).order_by(health.c.updated_at)
        with self._database.read() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return {row.pop("device"): DeviceHealth(**row) for row in rows}


def _query(device: str, toolchain: str, protocol: str) -> Select[Any]:
    columns = [health.c[name] for name in _CHANGES]
    place = (health.c.device == device, health.c.toolchain == toolchain, health.c.protocol == protocol)
    return select(*columns).where(*place)
