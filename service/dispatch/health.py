"""A device's health in the database: every job that measures on it adds to one row, and reads what others added."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from db.store import Store
from tuner.errors import FusetuneError
from tuner.types import Device

if TYPE_CHECKING:
    from tuner.measure.health import Condition
    from tuner.measure.options import MeasureOptions
    from tuner.measure.runner import Runner

    Make = Callable[[Device, MeasureOptions], Runner]  # as Session.runner

log = logging.getLogger(__name__)


class HealthBooks:
    """Fulfils tuner.measure.steady.Books for one device and toolchain."""

    def __init__(self, store: Store, device: Device, toolchain: str) -> None:
        from tuner.measure.steady import Memory

        self._store, self._device, self._toolchain = store, device, toolchain
        self._own = Memory()  # stands in while the database is away

    def note(self, readings: list[float]) -> tuple[list[float], bool]:
        from tuner.measure.health import WINDOW, judge

        own, health = self._own.note(readings), self._store.health
        place = (self._device.fingerprint, self._toolchain)
        try:
            found = health.note(*place, readings, judge, keep=WINDOW) if readings else health.get(*place)
        except FusetuneError as error:
            log.warning("the health of %s could not be noted: %s", self._device.name, error)
            return own
        return ([], False) if found is None else (list(found.readings), found.drifting_since is not None)


def watched(make: Make, store: Store, toolchain: str) -> Make:
    """Makes runners as ``make`` does, that watch the health of their device."""
    from tuner.measure.steady import SteadyRunner

    def made(device: Device, options: MeasureOptions) -> Runner:
        def tell(condition: Condition) -> None:
            if condition.drifting:
                said = "%s has drifted: its calibration kernel takes %.2f times its usual"
                log.warning(said, device.name, condition.ratio)
            else:
                log.warning("%s is as fast as usual again", device.name)

        return SteadyRunner(make(device, options), HealthBooks(store, device, toolchain), tell)

    return made
