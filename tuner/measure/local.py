"""The local runner: builds in parallel child processes, measures in one more, on this machine's CPU.

Builders fill a chunk, then the chunk is measured while nothing is built, except on cores that are spare even then.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.measure.children import REFERENCES, starter
from tuner.measure.options import MeasureOptions
from tuner.measure.process import Child, Outcome, wait
from tuner.measure.reference import narrow_inputs, reference_name
from tuner.measure.serial import SerialRunner
from tuner.measure.worker import Worker
from tuner.scratch import Scratch
from tuner.types import Candidate, Device, Failure, FailureKind, Purpose, Trial

_PERIOD = 0.05  # seconds between looks at limits while nothing happens


class _ClosedError(Exception):
    """close() was called while a run was in progress."""


@dataclass
class _Job:
    """One candidate on its way."""

    candidate: Candidate
    library: Path
    binary: Mapping[str, Any] | None = None
    build_seconds: float = 0.0

    @property
    def reference(self) -> str:
        """Name of the reference it is compared with."""
        asked = self.candidate
        return reference_name(asked.workload_hash, asked.precision, narrow_inputs(asked))

    def clear(self) -> None:
        """Delete the library, and what a builder that was killed may have left beside it."""
        for path in self.library.parent.glob(f"{self.library.stem}.*"):
            path.unlink(missing_ok=True)


@dataclass
class _Work:
    """What one run() has under way."""

    source: Iterator[Candidate]
    purpose: Purpose
    best: Mapping[str, float]  # the caller's
    seen: dict[str, float] = field(default_factory=dict)  # our own: record key -> best median
    exhausted: bool = False
    draining: bool = False  # the chunk was full and is being measured
    fresh: bool = False  # the measuring process was started for this run
    building: dict[Worker, _Job] = field(default_factory=dict)
    built: deque[_Job] = field(default_factory=deque)
    referring: _Job | None = None  # whose reference is being made
    done: deque[Trial] = field(default_factory=deque)  # not yet handed over

    def best_seconds(self, key: str) -> float | None:
        return min((b for b in (self.best.get(key), self.seen.get(key)) if b is not None), default=None)


class LocalRunner(SerialRunner):
    """Measures on this machine's CPU. See Runner for the contract."""

    def __init__(self, device: Device, options: MeasureOptions | None = None) -> None:
        super().__init__()
        self._device = device
        self._options = options or MeasureOptions()
        self._scratch = Scratch()
        self._chunk = max(2, self._options.chunk * device.cores)
        self._builders = [Worker("build", self._start) for _ in range(device.cores)]
        self._measurer = Worker("run", self._start)
        self._referee = Worker("reference", self._start)
        self._references: dict[str, Failure | None] = {}  # None = it is there; else why there is none
        self._count = 0
        self._lock = threading.Lock()  # guards _closed and _started
        self._started: list[Child] = []  # all that may be alive, even if their worker does not know them yet
        self.disturbed = 0  # samples so far that others disturbed
        self._floor: float | None = None  # seconds of the fastest burst (see tuner.measure.contention)

    def devices(self) -> tuple[Device, ...]:
        return (self._device,)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for child in self._started:
            child.kill()
        running = self._running
        if running is None or not running.gi_running:  # otherwise that thread will see it, and clean up
            if running is not None:
                running.close()
            self._drop_all()
        self._scratch.remove()

    def _trials(
        self, candidates: Iterator[Candidate], purpose: Purpose, best_seconds: Mapping[str, float]
    ) -> Iterator[Trial]:
        work = _Work(candidates, purpose, best_seconds)
        try:
            while not self._closed:
                if work.done:
                    yield work.done.popleft()
                elif self._may_measure(work):
                    self._measure(work, work.built.popleft())
                elif work.exhausted and not work.building and not work.built:
                    return
                else:
                    self._build(work)
        except _ClosedError:
            return
        finally:
            self._abandon(work)
            if self._closed:
                self._drop_all()

    def _may_measure(self, work: _Work) -> bool:
        """Measure when the chunk is full or nothing more comes, then go on until it is used up; never beside builds."""
        if not work.built or work.referring is not None or work.built[0].reference not in self._references:
            return False
        work.draining = work.draining or work.exhausted or len(work.built) + len(work.building) >= self._chunk
        return work.draining and self._at_work() <= self._spare(work.built[0].candidate)

    def _build(self, work: _Work) -> None:
        """Keep the builders and the referee at work until something happens there."""
        if not work.built:
            work.draining = False
        if not work.draining:
            self._feed(work, self._device.cores)
        self._refer(work)
        if work.exhausted and not work.building and not work.built:
            return
        self._wait([self._referee, *self._builders])
        self._take_builds(work)
        self._take_reference(work)

    def _feed(self, work: _Work, limit: int) -> None:
        """Give idle builders candidates while fewer than ``limit`` are at work and the chunk is not full."""
        for worker in self._builders:
            if work.exhausted or len(work.built) + len(work.building) >= self._chunk or self._at_work() >= limit:
                return
            worker.ensure()
            if not worker.idle:
                continue
            candidate = next(work.source, None)
            if candidate is None:
                work.exhausted = True
                return
            self._count += 1
            job = _Job(candidate, self._scratch.path / f"{self._count}.so")
            work.building[worker] = job
            worker.send({"candidate": candidate.to_json(), "library": str(job.library)}, self._options.build_limit)

    def _at_work(self) -> int:
        return sum(worker.busy for worker in self._builders)

    def _spare(self, candidate: Candidate) -> int:
        """Cores to build on while this candidate is measured; one is left to us and to the rest of the machine."""
        return max(0, self._device.cores - candidate.cores - 1)

    def _take_builds(self, work: _Work) -> None:
        for worker in self._builders:
            outcome = self._poll(worker)
            if outcome is None:
                continue
            job = work.building.pop(worker)
            job.build_seconds = outcome.seconds
            if outcome.failure is not None:
                self._finish(work, job, failure=outcome.failure)
            else:
                job.binary = outcome.answer
                work.built.append(job)

    # References

    def _refer(self, work: _Work) -> None:
        """Have a missing reference made: of what is built first, else of what is being built."""
        missing = (j for j in (*work.built, *work.building.values()) if j.reference not in self._references)
        job = next(missing, None)
        if job is None or work.referring is not None:
            return
        self._referee.ensure()
        if self._referee.idle:
            keep = sorted({j.reference for j in (*work.built, *work.building.values())})
            asked = job.candidate
            request = {
                "workload": asked.workload, "precision": asked.precision, "narrow": narrow_inputs(asked),
                "name": job.reference, "keep": keep,
            }  # fmt: skip
            self._referee.send(request, self._options.reference_limit)
            work.referring = job

    def _take_reference(self, work: _Work) -> None:
        outcome = self._poll(self._referee)
        if outcome is None or work.referring is None:
            return
        self._references[work.referring.reference] = outcome.failure
        work.referring = None
        for name in (outcome.answer or {}).get("evicted", ()):
            self._references.pop(name, None)

    # Measuring

    def _measure(self, work: _Work, job: _Job) -> None:
        no_reference = self._references[job.reference]
        if no_reference is not None:
            self._finish(work, job, failure=no_reference)
            return
        final = work.purpose is Purpose.FINAL
        if final and not work.fresh:
            self._measurer.drop()  # code and data fall on other addresses each time; a finalist is to be good on any
            work.fresh = True
        self._measurer.ensure()
        while not self._measurer.idle:
            self._wait([self._measurer])
            self._poll(self._measurer)
            self._measurer.ensure()
        request = {
            "binary": job.binary,
            "reference": str(self._scratch.path / REFERENCES / job.reference),
            "residency": job.candidate.residency,
            "final": final,
            "best_seconds": work.best_seconds(job.candidate.record_key),
            "floor": self._floor,
        }
        self._measurer.send(request, self._options.run_limit * (3 if final else 1))
        while (outcome := self._poll(self._measurer)) is None:
            self._wait([self._measurer, *self._builders])
            self._take_builds(work)
            self._feed(work, self._spare(job.candidate))
        self._judge(work, job, outcome)

    def _judge(self, work: _Work, job: _Job, outcome: Outcome) -> None:
        answer = outcome.answer
        if outcome.failure is not None or answer is None:
            self._finish(work, job, failure=outcome.failure, seconds=outcome.seconds)
        elif "wrong" in answer:
            wrong = Failure(FailureKind.WRONG, answer["wrong"])
            self._finish(work, job, failure=wrong, seconds=outcome.seconds, error=answer["error"])
        else:
            self.disturbed += answer["disturbed"]
            self._floor = answer["floor"]
            self._finish(
                work, job, samples=tuple(answer["samples"]), seconds=outcome.seconds, error=answer["error"],
                calibration=answer["calibration"],
            )  # fmt: skip

    def _finish(
        self,
        work: _Work,
        job: _Job,
        *,
        samples: tuple[float, ...] = (),
        failure: Failure | None = None,
        seconds: float = 0.0,
        error: float | None = None,
        calibration: float | None = None,
    ) -> None:
        job.clear()
        trial = Trial(
            job.candidate, work.purpose, samples, failure, error, job.build_seconds, seconds, calibration=calibration
        )  # fmt: skip
        if trial.seconds is not None:
            key = job.candidate.record_key
            work.seen[key] = min(trial.seconds, work.seen.get(key, trial.seconds))
        work.done.append(trial)

    # Children

    def _start(self, role: str) -> Child:
        start = starter(role, self._device, self._options, self._scratch.path)
        with self._lock:
            if self._closed:
                raise _ClosedError
            self._count += 1
            child = start(self._scratch.path / f"{role}-{self._count}.err")
            self._started = [c for c in self._started if not c.ended] + [child]
            return child

    def _poll(self, worker: Worker) -> Outcome | None:
        outcome = worker.poll()
        if self._closed:
            raise _ClosedError
        return outcome

    def _wait(self, workers: Iterable[Worker]) -> None:
        if self._closed:
            raise _ClosedError
        busy = [w.child for w in workers if w.busy and w.child is not None]
        if busy:
            wait(busy, _PERIOD)
        else:
            time.sleep(0)  # nothing at work: the caller finds something to do or to start

    def _workers(self) -> list[Worker]:
        return [*self._builders, self._measurer, self._referee]

    def _drop_all(self) -> None:
        for worker in self._workers():
            worker.drop()

    def _abandon(self, work: _Work) -> None:
        """What is under way when the consumer stops is of no use to anybody; children at work are ended."""
        for worker in self._workers():
            if worker.busy and worker.child is not None and worker.child.ready:
                worker.drop()
        for job in (*work.built, *work.building.values()):
            job.clear()
