"""Holding a job while working on it: the lease is renewed, the device is taken in turns, progress is written down.

Whoever works on a job does so inside a Drive: the driver process that a server starts, and ``fusetune tune`` itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from db.jobs import Job
from db.queue import Claim, StaleDriver
from db.store import Store
from tuner.errors import FusetuneError
from tuner.events import Progress, Stage
from tuner.types import JobState

log = logging.getLogger(__name__)

QUIET = 0.5  # seconds between two notes of progress in the database, unless the stage changes
WAIT = 0.1  # seconds between two tries for the device
ENDING = 1.0  # seconds in which a job whose end was just written down is left; another driver holds it otherwise
ASKED = 1.0  # seconds at most until one who can be asked to stop hears of it


class Drive:
    """One run of one job.

    ``lost`` is called from the heartbeat's thread when the job belongs to another driver now, or when the lease may
    have run out unseen: nothing may be written any more. ``asked`` is called with "cancel" or "pause", once for each.
    """

    def __init__(
        self, store: Store, job: Job, claim: Claim, *, lease: float, elapsed: Callable[[], float],
        lost: Callable[[], None], asked: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.claim = claim
        self._store, self._job, self._lease, self._elapsed = store, job, lease, elapsed
        self._lost, self._asked = lost, asked
        self._done = threading.Event()
        self._using: str | None = None  # what the device is held for
        self._wanted: str | None = None
        self._last = Progress(Stage.IMPORT, "starting")
        self._noted = (Stage.IMPORT, -1e9)
        self._curve = job.curve  # as the database has it
        # Without anybody to ask, the lease alone says how often: a thousand drivers beat as well.
        self._period = lease / 5 if asked is None else min(ASKED, lease / 5)
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job.id}", daemon=True)

    def __enter__(self) -> Drive:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    # the device -----------------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """Hold the device inside (tuner.turns.Turn); waits while another job's driver has it."""
        waiting = False
        while not self._store.turns.take(self._job.device, self.claim, self._lease, what):
            if not waiting:
                waiting = True
                self.say("waiting for the device, which another job is using")
            time.sleep(WAIT)
        self._using = what
        try:
            yield
        finally:
            self._using = None
            self._store.turns.release(self._job.device, self.claim)
            if self._shared():
                time.sleep(2 * WAIT)  # let the others have it: who measures one batch after another would never wait

    def _shared(self) -> bool:
        running = self._store.jobs.list(state=[JobState.RUNNING], device=self._job.device, limit=2)
        return len(running.items) > 1

    # progress -------------------------------------------------------------------------------------------------------

    def watch(self, progress: Progress, curve: list[list[float]]) -> None:
        """Write a step down, now and then (tuner.events.Watch with the curve so far)."""
        stage, when = self._noted
        now = time.monotonic()
        self._last = progress
        if progress.stage is stage and now - when < QUIET:
            return
        self._noted = (progress.stage, now)
        figures = self._figures(progress)
        if curve != self._curve:  # it grows with improvements, which are rare
            figures["curve"] = self._curve = [list(point) for point in curve]
        self._note(event=True, **figures)

    def _figures(self, progress: Progress) -> dict[str, Any]:
        budget = self._job.spec.budget
        if budget.trials is not None:
            done, total, unit = float(progress.trials), float(budget.trials), "trials"
        elif budget.seconds is not None:
            done, total, unit = min(progress.elapsed, budget.seconds), budget.seconds, "seconds"
        else:
            done, total, unit = progress.done, 1.0, "share"
        job = self._job  # a resumed job knows these until the engine has recalled them
        return {
            "stage": progress.stage.value, "message": progress.message, "done": done, "total": total, "unit": unit,
            "measured": max(progress.trials, job.measured), "failed": max(progress.failed, job.failed),
            "reused_trials": max(progress.reused, job.reused_trials),
            "best_seconds": progress.best_latency or job.best_seconds,
            "onnxruntime_seconds": progress.onnxruntime or job.onnxruntime_seconds,
            "unoptimised_seconds": progress.unoptimised or job.unoptimised_seconds, "elapsed": progress.elapsed,
        }  # fmt: skip

    def say(self, message: str) -> None:
        """Tell watchers what it does now, beside the engine's own steps."""
        self._note(message=message, event=True)

    def _note(self, **fields: Any) -> None:
        self._store.queue.progress(self.claim, **fields)

    # the lease ------------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._done.wait(self._period):
            try:
                using = self._using
                beat = self._store.queue.beat(
                    self.claim, self._lease, elapsed=self._elapsed(), what=using and (self._last.message or using),
                    device=None if using is None else self._job.device,
                )  # fmt: skip
                renewed = time.monotonic()
                if not beat.kept and self._using is not None:  # it did not just end: another measures beside us
                    log.error("the device went to another job", extra={"job": self._job.id})
                    self._lost()
                    return
                if beat.wanted != self._wanted:
                    self._wanted = beat.wanted
                    if beat.wanted is not None and self._asked is not None:
                        self._asked(beat.wanted)
            except StaleDriver:
                if self._done.wait(ENDING):
                    return  # nobody took it: its end was written down while this beat was under way
                log.error("another driver has taken the job over", extra={"job": self._job.id})
                self._lost()
                return
            except FusetuneError as error:  # the database is away: go on until the lease may be over
                log.warning("the lease could not be renewed: %s", error, extra={"job": self._job.id})
                if time.monotonic() - renewed > self._lease:
                    self._lost()
                    return
