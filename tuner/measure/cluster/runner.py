"""The cluster's runner: kernels are built wherever there are builders, and measured on the device's own machine.

A device is kept busy by handing its machine the next kernel while it measures one. What was under way on a machine that
goes away is done again by another, and becomes a failed trial once it has seen several machines go.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuner.errors import InternalError
from tuner.measure.cluster.cluster import PATIENCE, Answer, Call, ClosedError, Cluster, Member
from tuner.measure.options import MeasureOptions
from tuner.measure.reference import narrow_inputs
from tuner.measure.serial import SerialRunner
from tuner.scratch import Scratch
from tuner.types import Candidate, Device, Failure, FailureKind, Purpose, Trial

AHEAD = 2  # kernels at a device's machine: one that it measures, one that waits there
LOSSES = 2  # machines that may go away under one candidate
_WAIT = 0.5  # seconds of one exchange at most


@dataclass
class _Job:
    """One candidate on its way."""

    candidate: Candidate
    library: Path
    binary: Mapping[str, Any] | None = None  # once it is built
    build_seconds: float = 0.0
    losses: int = 0  # machines that went away under it

    def clear(self) -> None:
        self.library.unlink(missing_ok=True)


@dataclass
class _Work:
    """What one run() has under way."""

    source: Iterator[Candidate]
    purpose: Purpose
    best: Mapping[str, float]  # the caller's
    run: str = field(default_factory=lambda: secrets.token_hex(8))  # what machines tell it from others by
    seen: dict[str, float] = field(default_factory=dict)  # our own: record key -> best median
    exhausted: bool = False
    unbuilt: deque[_Job] = field(default_factory=deque)
    built: deque[_Job] = field(default_factory=deque)
    calls: dict[int, tuple[_Job, Call]] = field(default_factory=dict)  # under way, oldest first
    done: deque[Trial] = field(default_factory=deque)  # not yet handed over

    @property
    def jobs(self) -> list[_Job]:
        return [*self.unbuilt, *self.built, *(job for job, _ in self.calls.values())]

    def best_seconds(self, key: str) -> float | None:
        return min((b for b in (self.best.get(key), self.seen.get(key)) if b is not None), default=None)


class ClusterRunner(SerialRunner):
    """Measures on one kind of device of a cluster. See Runner for the contract.

    Args:
        cluster: how it is reached; closed with the runner.
        device: what to measure on; any machine of the cluster with this fingerprint may.
        options: as for the local runner. Limits begin when a candidate's turn has come.
        waiting: entered while no such device is there, and left when one is.
    """

    def __init__(
        self,
        cluster: Cluster,
        device: Device,
        options: MeasureOptions | None = None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__()
        self._cluster, self._device, self._waiting = cluster, device, waiting
        self._options = replace(options or MeasureOptions(), objects=None)  # that folder is on this machine
        self._scratch = Scratch()
        self._count = 0
        self._lock = threading.Lock()  # guards _closed
        self.disturbed = 0  # samples so far that foreign load disturbed

    def devices(self) -> tuple[Device, ...]:
        return (self._device,)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._cluster.close()
        running = self._running
        if running is None or not running.gi_running:  # otherwise that thread will see it, and clean up
            if running is not None:
                running.close()
            self._cluster.dispose()
        self._scratch.remove()

    def _trials(
        self, candidates: Iterator[Candidate], purpose: Purpose, best_seconds: Mapping[str, float]
    ) -> Iterator[Trial]:
        work = _Work(candidates, purpose, best_seconds)
        try:
            while not self._closed:
                if work.done:
                    yield work.done.popleft()
                    continue
                self._feed(work)
                if work.exhausted and not work.jobs:
                    if not work.done:
                        return
                    continue
                if not self._devices():
                    self._await_device(work)
                self._submit(work)
                self._take(work, self._cluster.exchange(_WAIT))
        except ClosedError:
            return
        finally:
            self._cluster.forget()
            for job in work.jobs:
                job.clear()
            if self._closed:
                self._cluster.dispose()

    # who does it ----------------------------------------------------------------------------------------------------

    def _devices(self) -> list[Member]:
        return self._cluster.having(self._device)

    def _builders(self) -> list[Member]:
        """Machines that build: those that have no device to measure on come first."""
        return sorted((m for m in self._cluster.comparable if m.builders), key=lambda m: m.device is not None)

    def _await_device(self, work: _Work) -> None:
        """Wait until there is one; that takes as long as it takes, and is no failure of anything."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:  # one that is only just restarted is not worth a word
            self._take(work, self._cluster.exchange(_WAIT))
            if self._devices():
                return
        with self._waiting():
            while not self._devices():
                self._take(work, self._cluster.exchange(_WAIT))

    # what is done next ----------------------------------------------------------------------------------------------

    def _feed(self, work: _Work) -> None:
        """Take candidates, as many as keep builders and devices busy."""
        room = sum(m.builders for m in self._builders()) + AHEAD * len(self._devices())
        while not work.exhausted and len(work.jobs) < max(1, room):
            candidate = next(work.source, None)
            if candidate is None:
                work.exhausted = True
                return
            self._count += 1
            work.unbuilt.append(_Job(candidate, self._scratch.path / f"{self._count}.so"))

    def _submit(self, work: _Work) -> None:
        busy = Counter((call.member, call.method) for _, call in work.calls.values())
        for member in self._devices():
            while work.built and busy[member.name, "measure"] < AHEAD:
                busy[member.name, "measure"] += 1
                self._measure(work, work.built.popleft(), member)
        for member in self._builders():
            while work.unbuilt and busy[member.name, "build"] < member.builders:
                busy[member.name, "build"] += 1
                self._build(work, work.unbuilt.popleft(), member)

    def _build(self, work: _Work, job: _Job, member: Member) -> None:
        header = self._common() | {"candidate": job.candidate.to_json()}
        self._call(work, job, Call(member.name, "build", header, keep=job.library))

    def _measure(self, work: _Work, job: _Job, member: Member) -> None:
        candidate = job.candidate
        header = self._common() | {
            "binary": job.binary, "workload": candidate.workload, "workload_hash": candidate.workload_hash,
            "precision": candidate.precision, "narrow": narrow_inputs(candidate), "residency": candidate.residency,
            "cores": candidate.cores,
            "run": work.run, "final": work.purpose is Purpose.FINAL,
            "best_seconds": work.best_seconds(candidate.record_key),
        }  # fmt: skip
        self._call(work, job, Call(member.name, "measure", header, blob=job.library))

    def _common(self) -> dict[str, Any]:
        return {"device": self._device.to_json(), "options": self._options.to_json()}

    def _call(self, work: _Work, job: _Job, call: Call) -> None:
        work.calls[self._cluster.call(call)] = (job, call)

    # what came of it ------------------------------------------------------------------------------------------------

    def _take(self, work: _Work, answers: Iterable[Answer]) -> None:
        answers = list(answers)
        blamed = self._blamed(work, answers)
        for answer in answers:
            if answer.id not in work.calls:
                continue
            job, call = work.calls.pop(answer.id)
            if answer.header is None:
                job.losses += answer.id in blamed
                self._again(work, job, answer.lost)
            elif "broken" in answer.header:
                code = "disk-full" if answer.header.get("code") == "disk-full" else "measuring-broken"
                raise InternalError(f"A worker cannot measure: {answer.header['broken']}", code=code)
            elif call.method == "build":
                self._built(work, job, answer.header)
            else:
                self._measured(work, job, answer.header)

    def _blamed(self, work: _Work, answers: Iterable[Answer]) -> set[int]:
        """Calls that may have taken their machine down: those that it was at work on, not those that waited there."""
        lost = {a.id for a in answers if a.header is None and not a.link}
        first: dict[str, int] = {}  # machine -> its oldest measurement
        for id, (_, call) in work.calls.items():
            if call.method == "measure":
                first.setdefault(call.member, id)
        return {id for id in lost if id in work.calls
                and (work.calls[id][1].method == "build" or first[work.calls[id][1].member] == id)}  # fmt: skip

    def _again(self, work: _Work, job: _Job, reason: str) -> None:
        if job.losses > LOSSES:
            text = f"{job.losses} workers went away while they were at it; the last one: {reason}"
            self._finish(work, job, failure=Failure(FailureKind.LOST, text))
        elif job.binary is None:
            work.unbuilt.appendleft(job)
        else:
            work.built.appendleft(job)

    def _built(self, work: _Work, job: _Job, header: Mapping[str, Any]) -> None:
        job.build_seconds = header["seconds"]
        failure = _failure(header)
        if failure is not None:
            self._finish(work, job, failure=failure)
        else:
            job.binary = header["answer"]
            work.built.append(job)

    def _measured(self, work: _Work, job: _Job, header: Mapping[str, Any]) -> None:
        seconds, failure = header["seconds"], _failure(header)
        if failure is not None:
            self._finish(work, job, failure=failure, seconds=seconds)
            return
        answer = header["answer"]
        if "wrong" in answer:
            wrong = Failure(FailureKind.WRONG, answer["wrong"])
            self._finish(work, job, failure=wrong, seconds=seconds, error=answer["error"])
            return
        self.disturbed += answer["disturbed"]
        self._finish(
            work, job, samples=tuple(answer["samples"]), seconds=seconds, error=answer["error"],
            calibration=answer["calibration"],
        )  # fmt: skip

    def _finish(
        self, work: _Work, job: _Job, *, samples: tuple[float, ...] = (), failure: Failure | None = None,
        seconds: float = 0.0, error: float | None = None, calibration: float | None = None,
    ) -> None:  # fmt: skip
        job.clear()
        trial = Trial(
            job.candidate, work.purpose, samples, failure, error, job.build_seconds, seconds, calibration=calibration
        )  # fmt: skip
        if trial.seconds is not None:
            key = job.candidate.record_key
            work.seen[key] = min(trial.seconds, work.seen.get(key, trial.seconds))
        work.done.append(trial)


def _failure(header: Mapping[str, Any]) -> Failure | None:
    said = header.get("failure")
    return None if said is None else Failure(FailureKind(said["kind"]), said["message"], said["stderr"])
