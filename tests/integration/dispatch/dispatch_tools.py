"""A server without its HTTP face: store, blobs, use cases and a dispatcher; and a model small enough for tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from db.blobs import Blobs
from db.jobs import Job
from db.store import Store
from service.dispatch.dispatcher import Dispatcher
from service.jobs import Jobs, Known
from service.models import ModelLibrary
from service.settings import Settings
from tuner.measure.device import detect_cpu, toolchain
from tuner.types import Budget, Device, JobSpec, JobState, Purpose

LIMIT = 150.0  # seconds after which a job hangs


def tiny_model(seed: int = 0) -> bytes:
    """Two convolutions and a classifier; weights differ with the seed, kernels do not."""
    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((random.standard_normal(shape) * 0.1).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 14, 14])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [weight("w1", 32, 16, 3, 3), weight("w2", 64, 32, 1, 1), weight("w3", 64, 10)],
    )  # fmt: skip
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    ).SerializeToString()
    return made


@dataclass
class House:
    """One server's parts."""

    store: Store
    blobs: Blobs
    settings: Settings
    device: Device
    models: ModelLibrary
    jobs: Jobs
    dispatcher: Dispatcher

    def submit(self, model: str, trials: int = 8, **options: Any) -> Job:
        return self.jobs.submit(JobSpec(model=model, budget=Budget(trials=trials), **options))[0]

    def upload(self, seed: int = 0) -> str:
        return self.models.add(iter([tiny_model(seed)]), f"tiny{seed}")[0].sha256

    def wait(self, job: Job, until: Callable[[Job], object], limit: float = LIMIT) -> Job:
        """The job once ``until`` holds of it; fails with its story if that takes too long."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            now = self.jobs.get(job.id)
            if until(now):
                return now
            if now.finished_at is not None:
                break
            time.sleep(0.05)
        raise AssertionError((self.jobs.get(job.id), self.store.queue.attempts(job.id)))

    def driver(self, job: Job) -> int:
        """The process that works on the job now."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            found = [pid for pid, work in drivers() if f"/{job.id}-" in work]
            if found:
                return found[0]
            time.sleep(0.02)
        raise AssertionError("no driver")


@contextmanager
def house(url: str, data: Path, **settings: Any) -> Iterator[House]:
    """A running server without HTTP. Opened a second time on the same database and folder it is the next server."""
    device = detect_cpu()
    device = replace(device, cores=min(device.cores, 2))
    made = Settings(db=url, data=data, lease=settings.pop("lease", 3.0), **settings)
    with Store.open(url) as store:
        blobs = Blobs(made.blobs, store.database, made.quota)
        models = ModelLibrary(store, blobs, device, toolchain())
        dispatcher = Dispatcher(store, blobs, made, {"cpu": device})
        jobs = Jobs(store, models, Known({"cpu": device}, toolchain()), dispatcher.wake)
        dispatcher.start()
        try:
            yield House(store, blobs, made, device, models, jobs, dispatcher)
        finally:
            dispatcher.stop()


def drivers() -> list[tuple[int, str]]:
    """(pid, where its output goes) of every driver process on this machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"service.dispatch.driver" in (process / "cmdline").read_bytes():
                found.append((int(process.name), os.readlink(process / "fd" / "1")))
        except OSError:
            continue
    return found


def leftovers(data: Path, but: str = "nothing") -> list[str]:
    """Processes that still have files of this server open or live in its folders, those in ``but`` left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(f) for f in (process / "fd").iterdir()]
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(
            link.startswith(str(data / "work")) and f"/{but}" not in link for link in links
        ):
            found.append(command)
    return found


def check_books(store: Store, job: str) -> None:
    """Nothing was lost or doubled: the job's counts are its trials', and no search trial was made twice."""
    kept = store.jobs.get(job)
    trials = store.trials.mine(job)
    assert kept is not None
    assert kept.measured == len(trials)
    assert kept.failed == sum(t.failure is not None for t in trials)
    searched = [t.candidate.key for t in trials if t.purpose is not Purpose.FINAL and not t.passing]
    assert len(searched) == len(set(searched))


def ended(job: Job) -> bool:
    return job.state in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
