"""Starts a driver process for each job whose turn has come, and sees to it that none is lost.

One thread; everything it knows it reads from the database, so that several servers share one queue and any of them may
be killed at any moment. What it owns is the processes it started.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from db.blobs import Blobs
from db.queue import Claim, StaleDriver
from db.store import Store
from db.urls import full_url
from service.dispatch.driver import AWAY, FULL, NO_ROOM, Assignment
from service.dispatch.scout import Scout
from service.dispatch.waiting import WAITING
from service.settings import Settings
from tuner.environment import child_environment
from tuner.errors import FusetuneError
from tuner.scratch import Scratch
from tuner.types import Device, JobState

log = logging.getLogger(__name__)

PERIOD = 0.25  # seconds between looks at drivers and at what is wanted of them
PAUSE = 0.05  # seconds at least between two rounds
CLAIM_PERIOD = 1.0  # seconds between looks for jobs that other servers queued; our own wake us
REST = 5.0  # seconds after the machine refused a process
START_UP = 60.0  # seconds for which we renew a new driver's lease: it imports the engine before it can do so itself
NO_ROOM_REASON = "The disk of the database was full. Make room, then resume the job."
TAIL = 8192  # bytes of a driver's stderr that are kept


@dataclass(frozen=True)
class _Process:
    """A driver process that waits for an assignment, with the engine imported or about to be."""

    popen: subprocess.Popen[bytes]
    work: Path
    log_fd: int  # as the process knows it


@dataclass
class _Driver:
    """A driver process and what it works on."""

    claim: Claim
    device: str
    process: subprocess.Popen[bytes]
    work: Path
    began: float  # time.monotonic()
    renewed: float


class Dispatcher:
    """Runs the queue of one server. ``start``, then ``stop`` once; ``wake`` from any thread when there is news."""

    def __init__(
        self, store: Store, blobs: Blobs, settings: Settings, devices: Mapping[str, Device], scout: Scout | None = None
    ) -> None:
        self._store, self._blobs, self._settings = store, blobs, settings
        self._scout = scout  # of a cluster, whose devices are driven as well
        self._devices = {device.fingerprint: device for device in devices.values()}
        self._url = full_url(settings.db)  # drivers lack our environment
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._drivers: list[_Driver] = []
        self._news = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)
        self._spare: _Process | None = None  # the next job's driver: importing the engine takes seconds
        self._spawned = 0
        self._work: Scratch | None = None  # the drivers' folders, swept by the next server if we are killed
        self._looked = self._reclaimed = -1e9
        self._overdue: Mapping[str, float] = {}  # leases that had run out at the last look
        self._trouble = ""  # why the queue could not be served in the last round
        self._rest = 0.0  # time.monotonic() before which no driver is started: the machine refused the last one
        self.beat = time.monotonic()  # of the loop's last round

    def start(self) -> None:
        """Offer the devices and begin to run jobs."""
        for device in self._devices.values():
            self._store.devices.put(device)
        self._store.devices.offer_all(self._devices, self.holder, self._settings.lease * 2)
        self._settings.work.mkdir(parents=True, exist_ok=True)
        self._work = Scratch(self._settings.work)
        self._keep_spare()
        self._thread.start()

    def stop(self) -> None:
        """Kill the drivers and hand their jobs back to the queue, where the next server finds them. Idempotent."""
        if not self._ending.is_set():
            self._ending.set()
            self._news.set()
            if self._thread.ident is not None:
                self._thread.join()
            for driver in list(self._drivers):
                self._kill(driver.process)
                self._let_go(driver, "the server was stopped; the job goes on when it is back")
            if self._spare is not None:
                self._kill(self._spare.popen)
                self._spare = None
            if self._scout is not None:
                self._scout.stop()
            if self._work is not None:
                self._work.remove()

    def wake(self) -> None:
        """Look at the queue now."""
        self._news.set()

    @property
    def alive(self) -> bool:
        """Whether the loop runs and has done so lately."""
        return self._thread.is_alive() and time.monotonic() - self.beat < 60.0

    @property
    def running(self) -> tuple[str, ...]:
        """Ids of the jobs whose drivers are ours."""
        return tuple(driver.claim.job for driver in self._drivers)

    # the loop -------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._ending.is_set():
            woken = self._news.wait(PERIOD)
            self._ending.wait(PAUSE)  # a hundred jobs in a second are one round, not a hundred
            self._news.clear()
            self.beat = time.monotonic()
            try:
                self._reap()
                self._obey()
                if self._scout is not None:
                    self._scout.keep()
                if woken or self.beat - self._looked >= CLAIM_PERIOD:
                    self._looked = self.beat
                    self._start_jobs()
                if self.beat - self._reclaimed >= self._settings.lease / 3:
                    self._reclaimed = self.beat
                    self._reclaim()
                self._trouble = ""
            except FusetuneError as error:  # the database may come back; nothing is lost meanwhile
                if str(error) != self._trouble:  # said once, not every second
                    log.error("the queue could not be served: %s", error)
                self._trouble = str(error)
                self._ending.wait(1.0)
            except Exception:
                log.exception("a defect in the dispatcher; it goes on")
                self._ending.wait(1.0)

    def _start_jobs(self) -> None:
        if time.monotonic() < self._rest:
            return
        devices, most = self._drivable(), self._settings.jobs_per_device
        busy = Counter(driver.device for driver in self._drivers)
        # Without a device that is free, a new job costs no transaction here; and the fewer are asked for, the better.
        while not self._ending.is_set() and (free := [device for device in devices if busy[device] < most]):
            claim = self._store.queue.claim(self.holder, devices=free, per_device=most, seconds=self._settings.lease)
            if claim is None:
                return
            try:
                self._drivers.append(self._start(claim, devices))
                busy[self._drivers[-1].device] += 1
            except OSError as error:
                log.error("the driver could not be started: %s", error, extra={"job": claim.job})
                if error.errno in FULL:
                    reason = f"The disk is full: {error.strerror}. Make room, then resume the job."
                    self._store.queue.finish(claim, JobState.PAUSED, reason=reason)
                else:  # no memory or no processes left: that passes, and is not the job's fault
                    self._store.queue.release(claim, reason=f"Its driver could not be started yet: {error}.")
                    self._rest = time.monotonic() + REST
                return

    def _drivable(self) -> Mapping[str, Device]:
        """Fingerprint -> device: our own, and those that the cluster offers now."""
        if self._scout is None:
            return self._devices
        found = (known for known in self._store.devices.list() if known.available)
        return {k.device.fingerprint: k.device for k in found if k.server == self._scout.holder} | self._devices

    def _start(self, claim: Claim, devices: Mapping[str, Device]) -> _Driver:
        job = self._store.jobs.get(claim.job)
        if job is None:
            raise OSError("the job is gone")
        process = self._take(f"{claim.job}-{claim.fence}")
        assignment = Assignment(
            db=self._url, blobs=str(self._settings.blobs), quota=self._settings.quota, work=str(process.work),
            job=claim.job, fence=claim.fence, holder=claim.holder, lease=self._settings.lease,
            device=devices[job.device].to_json(), log_json=self._settings.log_json, log_fd=process.log_fd,
            cluster=None if self._scout is None or job.device in self._devices else self._scout.reached,
        )  # fmt: skip
        assert process.popen.stdin is not None
        try:
            process.popen.stdin.write(assignment.to_line())
            process.popen.stdin.flush()  # and stays open: the driver's lifeline
        except BrokenPipeError:
            pass  # it died: _reap says how
        log.info("driver %d started", process.popen.pid, extra={"job": claim.job})
        now = time.monotonic()
        self._keep_spare()  # now, while the job reads its model and nothing is measured yet
        return _Driver(claim, job.device, process.popen, process.work, now, now)

    def _take(self, name: str) -> _Process:
        """The spare process, or a new one; its folder is called ``name`` now."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.popen.poll() is not None:
            shutil.rmtree(spare.work, ignore_errors=True)
            spare = None
        process = spare or self._spawn()
        return replace(process, work=process.work.rename(process.work.with_name(name)))

    def _keep_spare(self) -> None:
        """Have a process ready for the next job; without one that job waits for its own."""
        if self._spare is None:
            try:
                self._spare = self._spawn()
            except OSError as error:
                log.info("no driver could be started ahead: %s", error)

    def _spawn(self) -> _Process:
        assert self._work is not None  # since start
        self._spawned += 1
        work = (self._work.path / f"spare-{self._spawned}").absolute()
        work.mkdir(mode=0o700)
        log_fd = os.dup(2)
        with os.fdopen(log_fd, "wb"), (work / "stderr").open("wb") as stderr:
            popen = subprocess.Popen(
                [sys.executable, "-m", "service.dispatch.driver"],
                stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, start_new_session=True, pass_fds=(log_fd,),
                env=child_environment(),
            )  # fmt: skip
        return _Process(popen, work, log_fd)

    def _reap(self) -> None:
        """See which drivers have ended, and what has to be done about their jobs."""
        for driver in list(self._drivers):
            code = driver.process.poll()
            if code is None:
                continue
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            try:
                if code == AWAY:
                    state = self._store.queue.release(driver.claim, reason="the database was away; the job goes on")
                elif code == NO_ROOM:
                    state = self._store.queue.finish(driver.claim, JobState.PAUSED, reason=NO_ROOM_REASON)
                else:
                    state = self._store.queue.crashed(driver.claim, f"The driver process {how}.", _tail(driver.work))
                log.warning("driver %s; the job is now %s", how, state.value, extra={"job": driver.claim.job})
            except StaleDriver:
                log.info("driver %s", how, extra={"job": driver.claim.job})  # it had finished its job
            self._drivers.remove(driver)  # not before its job is in the books: the database may be away now
            self._clear(driver)
            self._news.set()  # its device is free

    def _obey(self) -> None:
        """Cancel and pause: the work is killed at once, whatever it is doing. New drivers are kept claimed."""
        wanted = self._wanted()
        for driver in list(self._drivers):
            if wanted is not None and wanted.get(driver.claim, "nothing: it is another's") is not None:
                self._kill(driver.process)
                self._let_go(driver, None)
            elif self.beat - driver.began < START_UP and self.beat - driver.renewed > self._settings.lease / 4:
                driver.renewed = self.beat
                with suppress(StaleDriver):
                    self._store.queue.renew(driver.claim, self._settings.lease)

    def _wanted(self) -> Mapping[Claim, str | None] | None:
        """What is wanted of our drivers; one that is missing is not ours any more. None = all may go on."""
        claims = [driver.claim for driver in self._drivers]
        if not claims or self._store.queue.undisturbed(self.holder, claims):
            return None
        return self._store.queue.wanted(self.holder)

    def _let_go(self, driver: _Driver, reason: str | None) -> None:
        """Hand the job of a killed driver back. If the database is away the lease does that, by running out."""
        self._drivers.remove(driver)
        self._news.set()
        try:
            state = self._store.queue.release(driver.claim, reason=reason)
            log.info("job is now %s", state.value, extra={"job": driver.claim.job})
        except StaleDriver:
            pass  # it was faster, and finished
        except FusetuneError as error:
            log.error("the job could not be handed back: %s", error, extra={"job": driver.claim.job})
        self._clear(driver)

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        """Kill a driver's process group; whatever that started hangs on lifelines of its own."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _clear(self, driver: _Driver) -> None:
        if driver.process.stdin is not None:
            with suppress(BrokenPipeError):
                driver.process.stdin.close()
        try:
            self._store.turns.release(driver.device, driver.claim)
        except FusetuneError as error:
            log.warning("the device's turn could not be given back: %s", error, extra={"job": driver.claim.job})
        shutil.rmtree(driver.work, ignore_errors=True)

    # housekeeping ---------------------------------------------------------------------------------------------------

    def _reclaim(self) -> None:
        """Take care of jobs whose drivers died with their server, and say that our devices are there."""
        self._store.devices.offer_all(self._devices, self.holder, self._settings.lease * 2)
        self._store.queue.mark_waiting(WAITING)
        overdue = self._store.queue.overdue()
        # Seen twice: when the database's clock jumps, all leases may have run out, and living drivers renew theirs.
        twice = {job: until for job, until in overdue.items() if self._overdue.get(job) == until}
        self._overdue = overdue
        for job, state in self._store.queue.reclaim(twice) if twice else ():
            log.warning("its driver is gone; the job is now %s", state.value, extra={"job": job})
            if state is JobState.QUEUED:
                self._news.set()


def _tail(work: Path) -> str:
    try:
        with (work / "stderr").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
