"""Each part of the service alone, as fast as it goes: the rate at which it saturates this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from typing import Any

from sqlalchemy import func, select

from bench.scale.questions import MODEL, Asleep, Questions
from cost_model.block_model import BlockModel
from db.queue import Claim
from db.schema import events
from db.store import Store
from service.api.jsonio import dumps
from service.api.views import event as view
from service.dispatch.jobstore import JobStore
from tuner.measure.device import toolchain
from tuner.plan.describe import describe
from tuner.search.blocks import machine_of
from tuner.search.planning import Planning
from tuner.search.predictor import BlockPredictor
from tuner.search.strategies.base import State
from tuner.search.strategies.registry import strategy
from tuner.store import NoStore
from tuner.types import Budget, Device, JobSpec

LEASE = 15.0  # seconds
JOBS = 50  # of each process that writes
DISPATCHED = (10, 100, 1000)  # devices with a job each
APART = 10_000  # between the numbers of devices that different parts use
BUDGET = 100  # trials of a search

Steps = Iterator[int]  # each step does so many of what is counted


@dataclass(frozen=True)
class _Place:
    """Where a process works: its own jobs in the common database."""

    store: Store
    jobs: Sequence[tuple[Claim, Device]]
    asked: Questions


def run(asked: Questions, url: str, seconds: float) -> dict[str, Any]:
    """Part -> rate and cost. The database at ``url`` must be empty; a process per core works on it at once."""
    processes = len(os.sched_getaffinity(0))
    devices = list(asked.fleet(processes * JOBS))
    with Store.open(url) as store:  # closed before anything forks
        jobs = [(store.queue.start(_submit(store, device), "scale", LEASE), device) for device in devices]
    found: dict[str, Any] = {"processes": processes}
    for name, steps in PARTS.items():
        shares = [jobs[i * JOBS : (i + 1) * JOBS] for i in range(processes)]
        found[name] = _together(steps, url, asked, shares, seconds)
    with Store.open(url) as store:
        found["events"] = _events(store, [claim for claim, _ in jobs], seconds)
        for number, count in enumerate(DISPATCHED, 1):
            found[f"dispatch:{count}"] = _dispatch(store, list(asked.fleet(count, number * APART)), 3 * seconds)
    return found


# what the processes do ------------------------------------------------------------------------------------------------


def _trials(place: _Place) -> Steps:
    """Trials are written, as drivers do it."""
    made = place.asked.prepared(4000)
    for trial in made:
        for claim, device in place.jobs:
            JobStore(place.store, claim, device, toolchain(), describe).add(trial)
            yield 1


def _progress(place: _Place) -> Steps:
    """Steps of progress are noted and told to watchers."""
    for number, (claim, _) in enumerate(cycle(place.jobs)):
        place.store.queue.progress(
            claim, event=True, stage="search", message="measuring", done=float(number), measured=number, failed=0,
            elapsed=float(number), best_seconds=1e-3, curve=[[float(i), i, 1e-3] for i in range(20)],
        )  # fmt: skip
        yield 1


def _leases(place: _Place) -> Steps:
    """Leases on a job and on its device are renewed."""
    for claim, device in place.jobs:
        place.store.turns.take(device.fingerprint, claim, LEASE, "scale")
    for claim, device in cycle(place.jobs):
        place.store.queue.beat(claim, LEASE, elapsed=1.0, device=device.fingerprint, what="scale")
        yield 1


def _deciding(place: _Place) -> Steps:
    """Searches run on devices that answer at once; nothing is stored."""
    asked = place.asked
    for seed in cycle(range(os.getpid(), os.getpid() + 1000)):
        predictor = BlockPredictor(asked.space, BlockModel(machine_of(asked.device), seed), None,
                                   _features=asked.features)  # fmt: skip
        state = State(asked.space, seed=seed, budget=BUDGET, predictor=predictor)
        planning = Planning(state, strategy("joint"), NoStore(), fresh=True)
        for _ in planning.run(Asleep(asked, asked.device, 0.0, seed), BUDGET, None):
            yield 1


PARTS: dict[str, Callable[[_Place], Steps]] = {
    "deciding": _deciding, "trials": _trials, "progress": _progress, "leases": _leases,
}  # fmt: skip


def _together(
    steps: Callable[[_Place], Steps], url: str, asked: Questions, shares: Sequence[Any], seconds: float
) -> dict[str, float]:
    """The sum of what a process per share does."""
    context = get_context("fork")
    results = context.SimpleQueue()
    start = context.Barrier(len(shares))

    def work(share: Any) -> None:
        with Store.open(url) as store:
            going = steps(_Place(store, share, asked))
            next(going)
            start.wait(60)
            began, cpu, done = time.monotonic(), time.process_time(), 0
            while time.monotonic() - began < seconds:
                done += sum(islice(going, 10))
            results.put((done, time.monotonic() - began, time.process_time() - cpu))

    processes = [context.Process(target=work, args=(share,), daemon=True) for share in shares]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    done = sum(d for d, _, _ in found)
    return {
        "per_second": round(sum(d / s for d, s, _ in found), 1),
        "cpu_ms": round(sum(cpu for _, _, cpu in found) * 1e3 / done, 3),
    }


# what one process does ------------------------------------------------------------------------------------------------


def _events(store: Store, claims: Sequence[Claim], seconds: float) -> dict[str, float]:
    """One new event of each job is read and put into words, as a server does for the watchers of all jobs together."""
    with store.database.read() as connection:
        newest = select(events.c.job, func.max(events.c.seq)).group_by(events.c.job)
        known = {row[0]: row[1] for row in connection.execute(newest)}
    done, busy, cpu = 0, 0.0, 0.0
    while busy < seconds / 2:
        for claim in claims:
            store.queue.progress(claim, event=True, done=1.0)
        began, used = time.monotonic(), time.process_time()
        for job, new in store.events.news(known).items():
            done += len([dumps(view(each)) for each in new])
            known[job] = new[-1].seq
        busy, cpu = busy + time.monotonic() - began, cpu + time.process_time() - used
    return {"per_second": round(done / busy, 1), "cpu_ms": round(cpu * 1e3 / done, 3), "jobs": len(claims)}


def _dispatch(store: Store, devices: Sequence[Device], seconds: float) -> dict[str, float]:
    """Jobs of so many free devices, one each, are claimed one after the other, as the dispatcher does it."""
    for device in devices:
        _submit(store, device)
    fingerprints = [device.fingerprint for device in devices]
    began, cpu, done = time.monotonic(), time.process_time(), 0
    while store.queue.claim("scale", devices=fingerprints, per_device=1, seconds=LEASE) is not None:
        done += 1
        if time.monotonic() - began > seconds:
            break
    took, used = time.monotonic() - began, time.process_time() - cpu
    return {"per_second": round(done / took, 1), "cpu_ms": round(used * 1e3 / done, 3)}


def _submit(store: Store, device: Device) -> str:
    store.devices.put(device)
    spec = JobSpec(model=MODEL, device=device.name, budget=Budget(trials=None))
    return store.jobs.submit(spec, device.fingerprint, toolchain(), model_name="scale", device_name=device.name)[0].id
