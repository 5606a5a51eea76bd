"""``python -m service.dispatch.driver``: works on one job, in a process of its own.

The dispatcher starts it ahead, hands it an Assignment as one JSON line on stdin, and keeps the pipe open: when that
closes, because the server ended however suddenly, the kernel kills this process, and what it started goes with it in
the same way. The job then waits for the next dispatcher, which finds every committed trial.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tuner.environment import one_thread
from tuner.lifeline import hold, read_line

if TYPE_CHECKING:
    from db.store import Store

log = logging.getLogger("service.driver")

NICENESS = 5  # of drivers and what they start: people who ask the server something go first
AWAY = 75  # exit code: the database could not be reached, so the job's books could not be kept
NO_ROOM = 73  # exit code: the disk of the database is full, so that it could not even be said that the job has to wait
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NAME_BYTES = 100  # of the model's name in that of its file


@dataclass(frozen=True)
class Assignment:
    """What a driver is told. Comes over a pipe because a database URL may hold a password."""

    db: str  # the whole URL: a driver has no FUSETUNE_ variables
    blobs: str  # folder
    quota: int | None  # bytes of blobs
    work: str  # a fresh folder of its own, removed by the dispatcher
    job: str
    fence: int
    holder: str
    lease: float  # seconds
    device: Mapping[str, Any]  # Device.to_json()
    cluster: Mapping[str, Any] | None = None  # Scout.reached; None = the device is this machine's
    log_json: bool = False
    log_fd: int = 2  # where log lines go: the server's stderr, handed down; the driver's own is kept for its last words

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> Assignment:
        return Assignment(**json.loads(line))


def main() -> int:
    os.nice(NICENESS)
    one_thread()
    import_module("tuner.session")  # which takes seconds: a driver is started before there is a job for it
    assignment = Assignment.from_line(read_line(sys.stdin.fileno(), "the dispatcher went away"))
    hold(sys.stdin.fileno())  # nothing more is written to it: whatever happens there now is its end
    os.environ["TMPDIR"] = tempfile.tempdir = assignment.work
    from service.logs import set_up

    set_up(
        json_lines=assignment.log_json,
        level=logging.INFO if assignment.log_json else logging.WARNING,  # people watch the job, not its failed trials
        stream=os.fdopen(assignment.log_fd, "w", buffering=1, closefd=False),
    )
    return drive(assignment)


def drive(a: Assignment) -> int:
    """Work on the job until it is done, and leave it in the state it came to; AWAY if the books cannot be kept."""
    from db.store import Store
    from tuner.errors import FusetuneError

    try:
        with Store.open(a.db) as store:
            return _drive(a, store)
    except FusetuneError as error:
        if not _away(error):
            raise
        log.error("the database is away: %s", error, extra={"job": a.job})
        return AWAY


def _drive(a: Assignment, store: Store) -> int:
    from db.blobs import Blobs
    from db.queue import Claim, StaleDriver
    from service.dispatch import on_gpu
    from service.dispatch.drive import Drive
    from service.dispatch.health import watched
    from service.dispatch.jobstore import JobStore
    from service.dispatch.results import keep
    from tuner.clock import Clock
    from tuner.errors import FusetuneError
    from tuner.events import Curve
    from tuner.measure.device import toolchain
    from tuner.plan.describe import describe
    from tuner.search.experience import load_experience
    from tuner.search.samples import load_samples
    from tuner.session import Session
    from tuner.types import Device, JobState

    claim, device = Claim(a.job, a.fence, a.holder), Device.from_json(a.device)
    blobs = Blobs(Path(a.blobs), store.database, a.quota)
    job = store.jobs.get(a.job)
    if job is None:
        return 0  # deleted meanwhile
    clock, curve = Clock(job.elapsed), Curve(job.curve)
    with Drive(store, job, claim, lease=a.lease, elapsed=lambda: clock.seconds, lost=_die) as lease:
        try:
            model = _model(blobs, job.spec.model, job.model_name, Path(a.work))
            place = None if a.cluster is None else _place(a.cluster, device, lease, clock)
            if device.kind == on_gpu.CUDA:
                watch = partial(lease.watch, curve=curve.points)
                report, out = on_gpu.tune(job.spec, model, device, store, claim, watch, lease.turn, place)
                lease.say("packing the downloads")
                store.queue.finish(
                    claim, JobState.SUCCEEDED, report=report, files=on_gpu.keep(out, blobs),
                    best_seconds=report["latency_ms"]["tuned"]["median"] / 1e3,
                )  # fmt: skip
                return 0
            out = model.with_suffix(".fusetune")
            session = Session(
                job.spec, model, device, out,
                JobStore(store, claim, device, toolchain(), describe),
                watch=lambda progress: lease.watch(progress, curve.points),
                retry=job.retries, clock=clock, curve=curve, turn=lease.turn,
                external=False, samples=load_samples(store, device), experience=load_experience(store, device),
            )  # fmt: skip
            _find_roof(store, device, lease, clock, place)
            if place is not None:
                session.runner, session.models, session.elsewhere = place.runner, place.models, True
            session.runner = watched(session.runner, store, toolchain())
            report = session.run()
            _raise_roof(store, device, report)
            lease.say("packing the downloads")
            files = keep(out, session.graph.to_json() if session.graph else {}, blobs)
            store.queue.finish(
                claim, JobState.SUCCEEDED, report=report, files=files,
                best_seconds=report["latency_ms"]["tuned"]["median"] / 1e3,
            )  # fmt: skip
        except StaleDriver:
            log.error("another driver has taken the job over", extra={"job": a.job})
            return 0
        except (FusetuneError, OSError) as error:
            if _away(error):
                raise
            if _full(error):
                return _pause(store, claim, f"{error} Make room, then resume the job.")
            elif isinstance(error, FusetuneError):
                store.queue.finish(claim, JobState.FAILED, reason=str(error))
            else:
                raise
    return 0


def _pause(store: Any, claim: Any, reason: str) -> int:
    """Have the job wait; NO_ROOM if there is no room to write that down either, so that the dispatcher has to."""
    from tuner.errors import FusetuneError
    from tuner.types import JobState

    try:
        store.queue.finish(claim, JobState.PAUSED, reason=reason)
    except FusetuneError as error:
        if not _full(error):
            raise
        log.error("%s", reason, extra={"job": claim.job})
        return NO_ROOM
    return 0


def _place(cluster: Mapping[str, Any], device: Any, lease: Any, clock: Any) -> Any:
    """The cluster as the place where this job measures."""
    from service.dispatch.waiting import waiter
    from tuner.measure.cluster.place import OnCluster

    return OnCluster(cluster["address"], device, cluster["settings"], waiter(lease, clock))


def _away(error: BaseException) -> bool:
    """Whether the database, not the job, is at fault: the job goes on when that is back."""
    return str(getattr(error, "code", "")) in {"database", "database-busy", "database-unreachable", "bad-database"}


def _full(error: BaseException | None) -> bool:
    """Whether a disk or the quota is full, be it the cause of a cause."""
    while error is not None:
        if getattr(error, "code", "") in {"storage-full", "disk-full"} or getattr(error, "errno", 0) in FULL:
            return True
        if isinstance(error, shutil.Error) and os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__
    return False


def _find_roof(store: Any, device: Any, lease: Any, clock: Any, place: Any) -> None:
    """Measure the device's peak and bandwidth, if nobody has; here, or in the ``place`` where it is."""
    from tuner.errors import DeviceError
    from tuner.measure.roof import measure_roof

    known = store.devices.get(device.fingerprint)
    if known is not None and known.peak_flops is not None:
        return
    lease.say("measuring the device's peak and bandwidth, once")
    with clock.stopped(), lease.turn("its peak and bandwidth"):
        try:
            found = measure_roof(device) if place is None else place.roof()
        except DeviceError as error:  # nice to know, not needed
            log.warning("%s", error)
            return
    store.devices.measured(device.fingerprint, peak_flops=found.flops, bandwidth=found.bandwidth)


def _raise_roof(store: Any, device: Any, report: Mapping[str, Any]) -> None:
    """A block that ran faster than the measured peak says that this was taken in a noisy moment: its rate counts."""
    known = store.devices.get(device.fingerprint)
    # Winograd's operations are counted as if it did them all, so its rate says nothing about the device.
    best = max((b["gflops"] or 0.0 for b in report["blocks"] if b["template"] != "winograd"), default=0.0) * 1e9
    if known is not None and known.peak_flops is not None and best > known.peak_flops:
        store.devices.measured(device.fingerprint, peak_flops=best)


def _model(blobs: Any, sha256: str, name: str, work: Path) -> Path:
    """The model under its own name: reports and artifacts are called after the file. Raises UserError without it."""
    from tuner.errors import UserError

    if not blobs.path(sha256).is_file():
        raise UserError(
            f"The file of model '{name}' is not in the server's store.", code="unknown-model",
            hint="Upload it and submit the job anew; a job of `fusetune tune` goes on only where it was started.",
        )  # fmt: skip
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    # Cut by bytes: a file name has at most 255 of them, and a letter may take four.
    safe = safe.encode()[:_NAME_BYTES].decode(errors="ignore").lstrip(".") or "model"
    path = work / f"{safe}.onnx"
    path.symlink_to(blobs.path(sha256).absolute())
    return path


def _die() -> NoReturn:
    """Nothing may be written any more; the children's lifelines end with us."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is in the books; taking the engine down in order would hold up the next job for seconds
