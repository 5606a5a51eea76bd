"""Processes in which the drivers of a fleet run, a thread each, and what the dispatcher sees of them.

With one driver per host it is as in a server, but for the start: hosts are forked from a process that has the engine
loaded. What a driver does here is what service.dispatch.driver does, with a search in place of a whole session.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any

from bench.scale.meters import Meter, Meters, Rest
from bench.scale.questions import Asleep, Questions
from cost_model.block_model import BlockModel
from db.queue import Claim, StaleDriver
from db.store import Store
from service.dispatch.drive import Drive
from service.dispatch.driver import NICENESS, Assignment
from service.dispatch.jobstore import JobStore
from tuner.clock import Clock
from tuner.events import Curve, Progress, Stage
from tuner.measure.device import toolchain
from tuner.plan.describe import describe
from tuner.search.blocks import machine_of
from tuner.search.planning import Planning
from tuner.search.predictor import BlockPredictor
from tuner.search.strategies.base import State
from tuner.search.strategies.registry import strategy
from tuner.types import Device, JobState, Trial

RUNNING = -1000  # no exit code
BUDGET = 400  # trials of each job


@dataclass(frozen=True)
class Task:
    """What all drivers of a fleet do."""

    db: str
    questions: Questions
    seconds: float  # that a candidate takes on its device
    prepared: Sequence[Trial] = ()  # proposals made beforehand; none = a real search


class Seat:
    """Room for one driver, to the dispatcher a process."""

    pid = -1

    def __init__(self, number: int, line: Connection, codes: Any) -> None:
        self._number, self._line, self._codes = number, line, codes
        self.stdin = self  # the assignment is written here

    def write(self, assignment: bytes) -> None:
        self._line.send((self._number, assignment))

    def flush(self) -> None:
        return None

    def close(self) -> None:
        return None

    def poll(self) -> int | None:
        code = self._codes[self._number]
        return None if code == RUNNING else int(code)

    def kill(self) -> None:
        """Nothing: its next write is refused, as the job is not its own any more."""


class Hosts:
    """So many processes with so many seats in all. Made before anything has threads; ``close`` kills them."""

    def __init__(self, hosts: int, seats: int, task: Task) -> None:
        self.meters = Meters(hosts)
        self._codes = RawArray("i", [RUNNING] * seats)
        context = get_context("fork")
        self._processes = []
        lines = []
        for host in range(hosts):
            line, theirs = context.Pipe()
            arguments = (theirs, self._codes, self.meters.of(host), task)
            process = context.Process(target=_host, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            lines.append(line)
        self.seats = [Seat(number, lines[number % hosts], self._codes) for number in range(seats)]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _host(line: Connection, codes: Any, meter: Meter, task: Task) -> None:
    os.nice(NICENESS)
    logging.getLogger("service").addHandler(logging.NullHandler())  # what went wrong stands in the books
    with Store.open(task.db) as store:
        meter.wrap_all("trial", store.trials, ["add"])
        meter.wrap_all("progress", store.queue, ["progress"])
        meter.wrap_all("lease", store.queue, ["beat"])
        with suppress(EOFError):
            while True:
                number, assignment = line.recv()
                arguments = (number, Assignment.from_line(assignment), codes, store, meter, task)
                threading.Thread(target=_drive, args=arguments, daemon=True).start()


def _drive(number: int, a: Assignment, codes: Any, store: Store, meter: Meter, task: Task) -> None:
    """One driver; its exit code goes into ``codes``."""
    code = 1
    try:
        claim, device = Claim(a.job, a.fence, a.holder), Device.from_json(a.device)
        job = store.jobs.get(a.job)
        assert job is not None
        clock, over = Clock(job.elapsed), threading.Event()
        with suppress(StaleDriver), Drive(
            store, job, claim, lease=a.lease, elapsed=lambda: clock.seconds, lost=over.set
        ) as drive:  # fmt: skip
            books = JobStore(store, claim, device, toolchain(), describe)
            work = _Work(task, job.spec.seed, device, clock, books, drive, meter, over)
            with drive.turn("the search"):
                (work.prepared if task.prepared else work.search)()
            if not over.is_set():
                store.queue.finish(claim, JobState.SUCCEEDED)
        code = 0
    finally:
        codes[number] = code


@dataclass(frozen=True)
class _Work:
    """One job's part of a task."""

    task: Task
    seed: int
    device: Device
    clock: Clock
    books: JobStore
    drive: Drive
    meter: Meter
    over: threading.Event  # the job is another's now

    def search(self) -> None:
        """Strategy joint over the plan space; as in tuner.simulated, but the device takes its time."""
        asked, curve = self.task.questions, Curve()
        model = BlockModel(machine_of(asked.device), self.seed)
        predictor = BlockPredictor(asked.space, model, None, _features=asked.features)
        state = State(asked.space, seed=self.seed, budget=BUDGET, predictor=predictor)
        planning = Planning(state, strategy("joint"), self.books, fresh=True, clock=self.clock)
        planning.recall()
        runner = Asleep(asked, self.device, self.task.seconds, self.seed, self.over)
        runner._answer = self.meter.wrap("device", runner._answer)  # type: ignore[method-assign]
        rest, before = Rest(self.meter), 0.0
        for _ in planning.run(runner, BUDGET, None):
            curve.add(self.clock.seconds, planning.measured, planning.latency)
            self._say(planning.message, planning.measured, planning.latency, curve)
            rest.take("deciding", 1, planning.deciding_seconds - before)
            before = planning.deciding_seconds

    def prepared(self) -> None:
        """Proposals made beforehand, one after the other; the answers as well."""
        runner, curve = Asleep(self.task.questions, self.device, self.task.seconds, self.seed, self.over), Curve()
        runner._answer = self.meter.wrap("device", runner._answer)  # type: ignore[method-assign]
        rest, trials = Rest(self.meter), iter(self.task.prepared)
        for done, trial in zip(count(1), runner.run(t.candidate for t in trials), strict=False):
            self.books.add(replace(trial, predicted=trial.seconds))
            curve.add(self.clock.seconds, done, trial.seconds)
            self._say("a proposal made beforehand", done, trial.seconds, curve)
            rest.take("deciding", 1, 0.0)

    def _say(self, message: str, measured: int, best: float | None, curve: Curve) -> None:
        elapsed = self.clock.seconds
        self.drive.watch(
            Progress(Stage.SEARCH, message, measured, best_latency=best, elapsed=elapsed), curve.points
        )  # fmt: skip
