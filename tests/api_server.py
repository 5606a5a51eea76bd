"""The real app on a real store, with a device and a model whose inspection is taken as done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from db.blobs import Blobs
from db.jobs import Job
from db.queue import Claim
from db.store import Store
from service.app import create_app
from service.jobs import Jobs, Known
from service.models import ModelLibrary
from service.settings import Settings
from tuner.types import Budget, Candidate, Device, Failure, FailureKind, JobSpec, JobState, Trial, digest

TOOLCHAIN = "tvm-0.27"
DEVICE = Device("cpu", "cpu", "Test CPU", "znver5", ("avx2", "avx512f"), 2, 16, 32, 2**15, 2**20, 2**25, 2**34)
BASE = "http://127.0.0.1:8077"
DATA = Path(__file__).parent / "data"
GRAPH: dict[str, Any] = json.loads((DATA / "squeezenet_graph.json").read_text())
REPORT: dict[str, Any] = json.loads((DATA / "squeezenet_report.json").read_text())


@dataclass
class Dispatcher:
    """Stands for the loop that starts jobs: here nothing runs by itself."""

    alive: bool = True
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1


@dataclass
class Service:
    """One app and what is behind it."""

    settings: Settings
    store: Store
    blobs: Blobs
    jobs: Jobs
    app: FastAPI
    dispatcher: Dispatcher = field(repr=False)

    def client(self, **more: Any) -> TestClient:
        return TestClient(self.app, base_url=BASE, client=("127.0.0.1", 5000), follow_redirects=False, **more)

    def model(self, content: bytes = b"a model", name: str = "net", **details: Any) -> str:
        """A stored model; its id."""
        blob = self.blobs.put([content])
        tensor = {"name": "x", "dtype": "float32", "shape": [1, 3, "height", None]}
        known = {"ops": {"Conv": 1}, "unsupported": [], "parameters": 12, "blocks": 1, "questions": []} | details
        self.store.models.put(
            blob.sha256, name=name, layers=3, macs=1000, size=blob.size, inputs=[tensor], outputs=[tensor],
            details=known, graph=GRAPH,
        )  # fmt: skip
        return blob.sha256

    def job(self, **spec: Any) -> Job:
        """A queued job."""
        values: dict[str, Any] = {"budget": Budget(10, None), "fresh": True} | spec
        values.setdefault("model", self.model())
        return self.jobs.submit(JobSpec(**values))[0]

    def running(self, **spec: Any) -> tuple[Job, Claim]:
        """A job that somebody works on."""
        job = self.job(**spec)
        return job, self.store.queue.start(job.id, "somebody", 600.0)

    def finished(self, files: Mapping[str, tuple[bytes, str]] | None = None, **spec: Any) -> Job:
        """A job that ended well, with its files."""
        job, claim = self.running(**spec)
        self.store.trials.add(job.id, good(1), device=job.device, toolchain=TOOLCHAIN, summary="conv", claim=claim)
        self.store.trials.add(job.id, bad(2), device=job.device, toolchain=TOOLCHAIN, summary="conv", claim=claim)
        stored = {}
        for name, (content, media_type) in (files or FILES).items():
            blob = self.blobs.put([content])
            stored[name] = (blob.sha256, blob.size, media_type)
        self.store.queue.progress(
            claim, measured=2, failed=1, best_seconds=0.01, unoptimised_seconds=0.04, onnxruntime_seconds=0.015
        )
        self.store.queue.finish(claim, JobState.SUCCEEDED, report=REPORT, best_seconds=0.01, files=stored)
        return self.jobs.get(job.id)


FILES = {
    "artifact.zip": (b"PK" + bytes(range(256)), "application/zip"),
    "plan.json": (b'{"version": 1, "stages": [], "layouts": {}}', "application/json"),
    "report.json": (b'{"of": "the file"}', "application/json"),
    "metaschedule.zip": (b"PK log", "application/zip"),
}


@contextmanager
def serving(url: str, folder: Path, **settings: Any) -> Iterator[Service]:
    """A service with authentication off, unless the settings say otherwise."""
    given = Settings(db=url, data=folder, **{"auth": False, "rate": 10**9} | settings)
    with Store.open(url) as store:
        store.devices.put(DEVICE)
        blobs = Blobs(given.blobs, store.database, given.quota)
        dispatcher = Dispatcher()
        models = ModelLibrary(store, blobs, DEVICE, TOOLCHAIN, given.max_upload)
        jobs = Jobs(store, models, Known({"cpu": DEVICE}, TOOLCHAIN), dispatcher.wake)
        app = create_app(given, store, blobs, jobs=jobs, models=models, dispatcher=dispatcher)
        yield Service(given, store, blobs, jobs, app, dispatcher)


def candidate(number: int) -> Candidate:
    canonical = {"layers": [{"op": "Clip", "max": float("inf")}]}
    return Candidate(
        workload=canonical, workload_hash=digest(canonical), layouts={"i0": "plain"}, template="conv2d",
        template_version=1, knobs={"reg_n": number}, cores=1,
    )  # fmt: skip


def good(number: int, seconds: float = 1e-3) -> Trial:
    return Trial(candidate(number), samples=(seconds, seconds), max_rel_error=1e-6)


def bad(number: int, kind: FailureKind = FailureKind.CRASH) -> Trial:
    # A process that dies may write anything.
    return Trial(candidate(number), failure=Failure(kind, "it \0 died", "last words \udc80\n"))
