"""The store: one door to everything that is remembered."""

from __future__ import annotations

from types import TracebackType

from db.access import Access
from db.blocks import Blocks
from db.calibrations import Calibrations
from db.devices import Devices
from db.engine import Database
from db.events import Events
from db.health import Health
from db.jobs import Jobs
from db.migrate import migrate
from db.models import Models
from db.queue import Queue
from db.records import Records
from db.trials import Trials
from db.turns import Turns
from db.urls import default_url, parse_url

__all__ = ["Store", "default_url"]


class Store:
    """Jobs, their queue, trials, records, devices and turns on them, models, events and access in one database.

    Every call is one short transaction, committed when it returns: a process killed at any moment loses at most the
    call in flight. Calls may come from several threads and processes at once; after a fork the child opens its own.

    ``get`` gives None for what is not there; what must be there and is not is a UserError. Any call may raise
    InternalError with code ``disk-full``, ``database-busy``, ``database-invariant`` or ``database``, and UserError with
    code ``bad-database`` or ``database-unreachable``.

    Usage::

        with Store.open(default_url()) as store:
            store.devices.put(device)
            job, new = store.jobs.submit(spec, device.fingerprint, toolchain)
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs = Jobs(database)  # as clients see them
        self.queue = Queue(database)  # as their drivers see them
        self.turns = Turns(database)
        self.trials = Trials(database)
        self.records = Records(database)
        self.blocks = Blocks(database)
        self.devices = Devices(database)
        self.calibrations = Calibrations(database)
        self.health = Health(database)
        self.models = Models(database)
        self.events = Events(database)
        self.access = Access(database)

    @staticmethod
    def open(url: str) -> Store:
        """Open the database, creating it or bringing its schema up to date; several processes may do so at once.

        Raises:
            UserError: ``bad-database-url``, ``bad-database`` (damaged, unreadable, or its folder cannot be made),
                ``foreign-database`` (another program's), ``newer-database``, ``database-unreachable``, ``no-driver``.
        """
        database = Database(parse_url(url))
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        return Store(database)

    def close(self) -> None:
        """Close all connections. The store is not to be used afterwards."""
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
