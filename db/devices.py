"""Devices: every machine that ever measured something, by fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update

from db.columns import now
from db.engine import Database
from db.schema import devices
from tuner.errors import UserError
from tuner.types import Device


@dataclass(frozen=True)
class KnownDevice:
    """A device and what was learned of it."""

    device: Device
    peak_flops: float | None  # measured, floating-point operations per second
    bandwidth: float | None  # measured, bytes per second
    first_seen_at: datetime  # UTC
    last_seen_at: datetime  # UTC


class Devices:
    """The devices table. Jobs and trials refer to it: a device is put before anything is measured on it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, device: Device) -> str:
        """Store the device as seen now and give back its fingerprint; measured figures stay."""
        moment = now()
        row = {
            "fingerprint": device.fingerprint,
            "name": device.name,
            "spec": device.to_json(),
            "first_seen_at": moment,
            "last_seen_at": moment,
        }
        with self._database.write() as connection:
            self._database.upsert(connection, devices, row, update=("name", "spec", "last_seen_at"))
        return device.fingerprint

    def measured(self, fingerprint: str, *, peak_flops: float | None = None, bandwidth: float | None = None) -> None:
        """Note measured figures (operations per second, bytes per second); None leaves a figure as it is.

        Raises:
            UserError: the device was never put (``unknown-device``).
        """
        figures = {"peak_flops": peak_flops, "bandwidth": bandwidth}
        changes = {name: value for name, value in figures.items() if value is not None} | {"last_seen_at": now()}
        statement = update(devices).where(devices.c.fingerprint == fingerprint).values(**changes)
        with self._database.write() as connection:
            if connection.execute(statement).rowcount == 0:
                raise UserError(f"There is no device '{fingerprint}'.", code="unknown-device")

    def get(self, fingerprint: str) -> KnownDevice | None:
        """The device, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(devices).where(devices.c.fingerprint == fingerprint)).one_or_none()
        return None if row is None else _known(row)

    def list(self, *, name: str | None = None, limit: int = 1000) -> list[KnownDevice]:
        """Devices, those seen last first; ``name`` may belong to several machines."""
        query = select(devices).order_by(devices.c.last_seen_at.desc(), devices.c.fingerprint).limit(limit)
        if name is not None:
            query = query.where(devices.c.name == name)
        with self._database.read() as connection:
            return [_known(row) for row in connection.execute(query)]


def _known(row: Row[Any]) -> KnownDevice:
    return KnownDevice(Device.from_json(row.spec), row.peak_flops, row.bandwidth, row.first_seen_at, row.last_seen_at)
