"""``python -m service.dispatch.scout``: looks into a cluster and writes down, for a server, which devices it offers.

A process of its own, because the server never joins a cluster. It hangs on the pipe over which it is told what to do,
as drivers do, and is started anew when it ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tuner.environment import child_environment
from tuner.errors import FusetuneError
from tuner.lifeline import hold, read_line

log = logging.getLogger(__name__)

PERIOD = 1.0  # seconds between two looks
STANDS = 5.0  # seconds for which an offer stands: a device that is gone gets no new jobs after that
REST = 5.0  # seconds after which one that ended is started again


def holder(address: str) -> str:
    """By whom the devices of the cluster at this address are offered in the database."""
    return f"cluster:{address}"


class Scout:
    """The server's side. ``keep`` is called now and then, ``stop`` once; both from one thread."""

    def __init__(self, db: str, address: str, settings: Mapping[str, str]) -> None:
        """``settings``: the variables that the cluster needs (tuner.measure.cluster.address.settings)."""
        self.address, self.settings = address, dict(settings)
        self.holder = holder(address)
        self._db = db
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0.0  # time.monotonic() of the next start

    @property
    def reached(self) -> dict[str, Any]:
        """How drivers reach the cluster. Comes over a pipe, as it may hold a token."""
        return {"address": self.address, "settings": self.settings}

    def keep(self) -> None:
        """Start the process if it does not run."""
        if self._process is not None and self._process.poll() is not None:
            log.warning("the scout of the cluster at %s ended (%s)", self.address, self._process.returncode)
            self._end()
        if self._process is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + REST
            self._start()

    def stop(self) -> None:
        """End the process. Idempotent."""
        self._end()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.dispatch.scout"], stdin=subprocess.PIPE, env=child_environment(),
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            log.warning("the scout could not be started: %s", error)
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: keep() says so
            told = {"db": self._db, "address": self.address, "settings": self.settings}
            self._process.stdin.write(json.dumps(told).encode() + b"\n")
            self._process.stdin.flush()  # and stays open: the scout's lifeline

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()


def main() -> None:
    told = json.loads(read_line(sys.stdin.fileno(), "the server went away"))
    hold(sys.stdin.fileno())
    from db.store import Store
    from tuner.measure.cluster.address import parse
    from tuner.measure.cluster.cluster import Cluster
    from tuner.measure.cluster.joining import Joining, Offer

    if not parse(told["address"]).loopback:
        # Ray lets a program in through a node on its own machine; on loopback that is the head.
        way_in = Joining(Offer(told["address"], None, builders=0, cores=1), told["settings"])
        threading.Thread(target=way_in.run, daemon=True).start()
    cluster = Cluster(told["address"], told["settings"])
    with Store.open(told["db"]) as store:
        put: dict[str, str] = {}  # fingerprint -> name, of devices written down
        troubled = ""
        while True:
            began = time.monotonic()
            cluster.exchange(PERIOD)
            if cluster.trouble != troubled:
                troubled = cluster.trouble
                print(f"cluster at {told['address']}: {troubled or 'joined'}", file=sys.stderr, flush=True)
            with suppress(FusetuneError):  # the database is away: nothing can be noted meanwhile
                note(store, cluster, put, told["address"])
            time.sleep(max(0.0, PERIOD - (time.monotonic() - began)))


def note(store: Any, cluster: Any, put: dict[str, str], address: str) -> None:
    """Offer the devices that are there now; ``put`` remembers those that the database knows."""
    there: set[str] = set()
    for member in cluster.comparable:
        device = member.device
        if device is None:
            continue
        if put.get(device.fingerprint) != device.name:
            store.devices.put(device)
            put[device.fingerprint] = device.name
        there.add(device.fingerprint)
    if there:
        store.devices.offer_all(there, holder(address), STANDS)


if __name__ == "__main__":
    main()
