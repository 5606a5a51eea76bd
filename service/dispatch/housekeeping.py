"""What a server does now and then: old jobs, used codes and unreferenced blobs go. In a thread of its own.

The dispatcher must not wait for it: a first round of retention may delete millions of rows.
"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from db.blobs import Blobs
from db.store import Store
from service.settings import Settings
from tuner.errors import FusetuneError

log = logging.getLogger(__name__)

PERIOD = 60.0  # seconds between two rounds
BLOB_GRACE = 3600.0  # seconds an unreferenced blob is kept: its model or job may just be being written


class Housekeeper:
    """Every server has one, whether it runs jobs or not. ``start``, then ``stop``."""

    def __init__(self, store: Store, blobs: Blobs, settings: Settings) -> None:
        self._store, self._blobs, self._settings = store, blobs, settings
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; a round in progress is dropped with the process, which loses nothing."""
        self._ending.set()

    def round(self) -> None:
        """Delete what is due now. Raises what the stores raise."""
        days = self._settings.retention_days
        if days is not None:
            count = self._store.jobs.expire(timedelta(days=days))
            if count:
                log.info("%d jobs older than %g days were deleted", count, days)
        self._store.jobs.sweep()  # deletions that a kill cut off
        self._store.access.sweep()
        count, freed = self._blobs.collect(BLOB_GRACE)
        if count:
            log.info("%d unused blobs deleted, %d bytes", count, freed)

    def _loop(self) -> None:
        while not self._ending.wait(PERIOD):
            try:
                self.round()
            except FusetuneError as error:
                log.warning("housekeeping has to wait: %s", error)
            except Exception:
                log.exception("a defect in housekeeping; it goes on")
