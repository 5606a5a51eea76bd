"""Calibrations: one per device, toolchain and way of measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from db.columns import now
from db.engine import Database
from db.schema import calibrations
from tuner.types import PROTOCOL

_CHANGES = ("samples", "model", "quality", "seconds", "updated_at")


@dataclass(frozen=True)
class Calibration:
    """What was measured of synthetic blocks, and the cost model learned from it."""

    samples: Sequence[Mapping[str, Any]]  # as tuner.search.calibration writes them
    model: Mapping[str, Any] | None  # BlockModel.to_json(); None = not trained yet
    quality: Mapping[str, Any] | None  # of predictions of held-out workloads
    seconds: float  # spent measuring, in all
    created_at: datetime  # UTC
    updated_at: datetime  # UTC


@dataclass(frozen=True)
class CalibrationFigures:
    """How good a calibration's model is, without its samples and itself."""

    device: str  # fingerprint
    toolchain: str
    quality: Mapping[str, Any] | None  # of predictions of held-out workloads; None = too few were measured to say
    seconds: float  # spent measuring, in all
    updated_at: datetime  # UTC


class Calibrations:
    """The calibrations table. A device is put before it is calibrated."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, device: str, toolchain: str, protocol: str = PROTOCOL) -> Calibration | None:
        """The calibration of the device with this fingerprint, or None."""
        query = select(
            calibrations.c.samples, calibrations.c.model, calibrations.c.quality, calibrations.c.seconds,
            calibrations.c.created_at, calibrations.c.updated_at,
        ).where(
            calibrations.c.device == device, calibrations.c.toolchain == toolchain, calibrations.c.protocol == protocol
        )  # fmt: skip
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Calibration(**row._mapping)

    def figures(self, protocol: str = PROTOCOL) -> dict[str, CalibrationFigures]:
        """Fingerprint -> figures of the device's newest calibration, for all that have one."""
        columns = [calibrations.c[name] for name in ("device", "toolchain", "quality", "seconds", "updated_at")]
        query = select(*columns).where(calibrations.c.protocol == protocol).order_by(calibrations.c.updated_at)
        with self._database.read() as connection:
            return {row.device: CalibrationFigures(**row._mapping) for row in connection.execute(query)}

    def put(
        self, device: str, toolchain: str, samples: Sequence[Mapping[str, Any]], *, seconds: float,
        model: Mapping[str, Any] | None = None, quality: Mapping[str, Any] | None = None, protocol: str = PROTOCOL,
    ) -> None:  # fmt: skip
        """Store the calibration in the place of what was there.

        Raises:
            InternalError: the device is not stored (``database-invariant``).
        """
        moment = now()
        row = {
            "device": device, "toolchain": toolchain, "protocol": protocol, "samples": list(samples), "model": model,
            "quality": quality, "seconds": seconds, "created_at": moment, "updated_at": moment,
        }  # fmt: skip
        with self._database.write() as connection:
            self._database.upsert(connection, calibrations, row, update=_CHANGES)
