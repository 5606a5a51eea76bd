"""Devices: every machine that ever measured something, by fingerprint."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import false, func, select, update

from db.columns import db_time, now
from db.engine import AnyRow, Database
from db.rows import chunks
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
    server: str | None = None  # the last server that offered to drive it
    available: bool = False  # that offer still stands


_COLUMNS = (
    devices.c.spec,
    devices.c.peak_flops,
    devices.c.bandwidth,
    devices.c.first_seen_at,
    devices.c.last_seen_at,
    devices.c.server,
    func.coalesce(devices.c.available_until > db_time(), false()).label("available"),
)


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

    def seen(self, fingerprint: str) -> None:
        """Note that the device was there just now; nothing happens if it was never put."""
        with self._database.write() as connection:
            connection.execute(update(devices).where(devices.c.fingerprint == fingerprint).values(last_seen_at=now()))

    def offer(self, fingerprint: str, holder: str, seconds: float) -> None:
        """Say that a live server drives the device for ``seconds`` from now (database time); 0 withdraws the offer.

        Raises:
            UserError: the device was never put (``unknown-device``).
        """
        if not self.offer_all([fingerprint], holder, seconds):
            raise UserError(f"There is no device '{fingerprint}'.", code="unknown-device")

    def offer_all(self, fingerprints: Collection[str], holder: str, seconds: float) -> int:
        """As ``offer``, for many devices at once; how many of them there are."""
        values = {"server": holder, "available_until": db_time() + seconds, "last_seen_at": now()}
        known = 0
        with self._database.write() as connection:
            for some in chunks(fingerprints):
                statement = update(devices).where(devices.c.fingerprint.in_(some)).values(**values)
                known += connection.execute(statement).rowcount
        return known

    def offered(self) -> set[str]:
        """Fingerprints of the devices that some live server drives."""
        with self._database.read() as connection:
            query = select(devices.c.fingerprint).where(devices.c.available_until > db_time())
            return set(connection.execute(query).scalars())

    def get(self, fingerprint: str) -> KnownDevice | None:
        """The device, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(*_COLUMNS).where(devices.c.fingerprint == fingerprint)).one_or_none()
        return None if row is None else _known(row)

    def list(self, *, name: str | None = None, limit: int = 1000) -> list[KnownDevice]:
        """Devices, those seen last first; ``name`` may belong to several machines."""
        query = select(*_COLUMNS).order_by(devices.c.last_seen_at.desc(), devices.c.fingerprint).limit(limit)
        if name is not None:
            query = query.where(devices.c.name == name)
        with self._database.read() as connection:
            return [_known(row) for row in connection.execute(query)]


def _known(row: AnyRow) -> KnownDevice:
    values = dict(row._mapping)
    device, available = Device.from_json(values.pop("spec")), bool(values.pop("available"))
    return KnownDevice(device, available=available, **values)
