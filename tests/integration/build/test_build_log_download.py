"""The MetaSchedule database of a job that has not ended with one: made from its trials, loaded by stock TVM."""

from __future__ import annotations

import asyncio
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from build_models import LOADER, candidates, machine, small_net, stock_python

from db.jobs import Job
from db.store import Store
from service.exports.logs import log_stream
from service.settings import Settings
from tuner.types import Failure, FailureKind, JobSpec, Trial


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(db=f"sqlite:///{tmp_path}/logs.db", data=tmp_path / "data")


def download(job: Job, store: Store, settings: Settings) -> zipfile.ZipFile:
    async def whole() -> bytes:
        media_type, name, chunks = await log_stream("metaschedule", job, store, settings)
        assert (media_type, name) == ("application/zip", f"fusetune-{job.id}.metaschedule.zip")
        return b"".join([chunk async for chunk in chunks])

    return zipfile.ZipFile(io.BytesIO(asyncio.run(whole())))


def test_a_running_job_gives_a_database_that_stock_tvm_compiles(settings: Settings, tmp_path: Path) -> None:
    device = machine()
    good = [Trial(c, samples=(0.001 * (k + 1), 0.002)) for k, c in enumerate(candidates(small_net()))]
    failed = Trial(replace(good[0].candidate, cores=7), failure=Failure(FailureKind.CRASH, "it died"))
    older = Trial(replace(good[0].candidate, template_version=99), samples=(1e-9,))
    unknown = Trial(replace(good[0].candidate, template="gone"), samples=(1e-9,))
    with Store.open(settings.db) as store:
        store.devices.put(device)
        job, _ = store.jobs.submit(JobSpec(model="ab" * 32), device.fingerprint, "tvm-test")
        with download(job, store, settings) as empty:
            assert sorted(empty.namelist()) == ["database_tuning_record.json", "database_workload.json"]
        for trial in [failed, older, unknown, *good]:
            store.trials.add(job.id, trial, device=device.fingerprint, toolchain="tvm-test")
        with download(job, store, settings) as archive:
            archive.extractall(tmp_path / "log")
    done = stock_python(LOADER, tmp_path / "log")
    assert done.returncode == 0, done.stderr
    times = sorted(line.split(" ", 1)[1] for line in done.stdout.strip().splitlines()[:-1])
    assert times == sorted(str(list(t.samples)) for t in good)
