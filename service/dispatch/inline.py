"""A job that this very process works on, as ``fusetune tune`` does: in the same books as a server's jobs."""

from __future__ import annotations

import _thread
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from db.queue import Claim
from db.store import Store
from service.dispatch.drive import Drive
from service.dispatch.jobstore import JobStore
from tuner.environment import collect_rarely
from tuner.errors import FusetuneError
from tuner.types import Device, JobSpec, JobState

LEASE = 15.0  # seconds


class Work(Protocol):
    """What is driven: tuner.session.Session."""

    @property
    def stopped(self) -> bool: ...
    def stop(self) -> None: ...
    def run(self) -> dict[str, Any]: ...


def run_here(
    store: Store, spec: JobSpec, device: Device, toolchain: str, name: str, make: Callable[[JobStore, Drive], Work],
    elapsed: Callable[[], float], describe: Callable[..., str] = lambda _: "",
) -> dict[str, Any]:  # fmt: skip
    """Enter the job in the books, work on it to its end, and leave it in the state it came to; returns its report.

    A cancel from elsewhere ends it with the best found so far, as Ctrl-C does. Raises what the work raises.
    """
    store.devices.put(device)
    # Paused, so that no server on the same database takes it: the model's file is known here only.
    job, _ = store.jobs.submit(
        spec, device.fingerprint, toolchain, model_name=name, device_name=device.name, paused=True
    )
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    claim = store.queue.start(job.id, holder, LEASE)
    working: list[Work] = []

    def asked(wish: str) -> None:
        if wish == "cancel" and working:
            working[0].stop()

    with Drive(store, job, claim, lease=LEASE, elapsed=elapsed, lost=_thread.interrupt_main, asked=asked) as drive:
        working.append(make(JobStore(store, claim, device, toolchain, describe), drive))
        return keep_books(store, claim, working[0])


def keep_books(store: Store, claim: Claim, work: Work) -> dict[str, Any]:
    """Run it and finish the job with what came of it. Raises what the work raises."""
    collect_rarely()
    try:
        report = work.run()
    except FusetuneError as error:
        store.queue.finish(claim, JobState.FAILED, reason=str(error))
        raise
    except KeyboardInterrupt:
        store.queue.finish(claim, JobState.CANCELLED, reason="interrupted")
        raise
    except Exception as error:  # a defect: the job must not wait for its lease to run out
        store.queue.finish(claim, JobState.FAILED, reason=f"{type(error).__name__}: {error}")
        raise
    if work.stopped:
        reason = "interrupted; ended with the best found so far"
        store.queue.finish(claim, JobState.CANCELLED, reason=reason, best_seconds=_best(report), report=report)
    else:
        store.queue.finish(claim, JobState.SUCCEEDED, best_seconds=_best(report), report=report)
    return report


def _best(report: Mapping[str, Any]) -> float:
    seconds: float = report["latency_ms"]["tuned"]["median"] / 1e3
    return seconds
