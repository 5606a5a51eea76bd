"""A server that drives a GPU, a stand-in: a job for it is worked on like any other."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from db.blobs import Blobs
from db.store import Store
from service.commands.serve import _gpu
from service.dispatch.dispatcher import Dispatcher
from service.jobs import Jobs, Known
from service.models import ModelLibrary
from service.rules import checked
from service.settings import Settings
from tests.integration.gpu.conftest import Round
from tests.unit.gpu.gpu_tools import RTX3090, fake_nvcc, fake_smi
from tuner.errors import UserError
from tuner.measure.device import detect_cpu, devices, toolchain
from tuner.types import Budget, JobSpec, JobState

DONE = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def test_a_server_offers_the_gpu_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _gpu() == {} and not caplog.records  # most machines have none: nothing to say
    smi = fake_smi(tmp_path / "smi", RTX3090)
    monkeypatch.setenv("PATH", os.pathsep.join([str(smi), str(fake_nvcc(tmp_path / "nvcc"))]))
    (device,) = _gpu().values()
    assert (device.name, device.model, device.mcpu) == ("gpu", "NVIDIA GeForce RTX 3090", "sm_86")
    monkeypatch.setenv("PATH", os.pathsep.join([str(fake_smi(tmp_path / "old", RTX3090.replace("580.95", "535.1")))]))
    assert _gpu() == {} and "535.1" in caplog.text


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (JobSpec("m", strategy="greedy"), "unknown-strategy"),
        (JobSpec("m", plan={"version": 1}), "bad-plan"),
        (JobSpec("m", memory_limit=2**30), "bad-memory-limit"),
        (JobSpec("m", precision="bf16"), "bad-precision"),
        (JobSpec("m", cores=(83,)), "bad-cores"),
    ],
)
def test_what_gpus_do_not_take_is_refused_when_it_is_submitted(spec: JobSpec, code: str) -> None:
    device = devices("rtx3090")
    assert checked(JobSpec("m", precision="fp16"), device).precision == "fp16"
    with pytest.raises(UserError) as raised:
        checked(spec, device)
    assert raised.value.code == code


@pytest.mark.slow
@pytest.mark.alone
def test_a_job_for_the_gpu_leaves_an_artifact_and_a_report(
    gpu: bool, first_round: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no trials: where launches do nothing no candidate could be right."""
    if not gpu:
        return
    monkeypatch.setenv("PATH", os.pathsep.join([str(fake_nvcc(tmp_path / "nvcc")), os.environ["PATH"]]))
    offered = _gpu()
    settings = Settings(db=f"sqlite:///{tmp_path}/fusetune.db", data=tmp_path / "data", lease=3.0)
    with Store.open(settings.db) as store:
        blobs = Blobs(settings.blobs, store.database, settings.quota)
        models = ModelLibrary(store, blobs, detect_cpu(), toolchain())
        dispatcher = Dispatcher(store, blobs, settings, offered)
        jobs = Jobs(store, models, Known(offered, toolchain()), dispatcher.wake)
        dispatcher.start()
        try:
            model = models.add(iter([first_round.model.read_bytes()]), "small")[0].sha256
            job = jobs.submit(JobSpec(model=model, device="gpu", budget=Budget(trials=0)))[0]
            for _ in range(2000):
                job = jobs.get(job.id)
                if job.state in DONE:
                    break
                time.sleep(0.1)
        finally:
            dispatcher.stop()
        assert job.state is JobState.SUCCEEDED, job.reason
        assert job.report is not None and job.report["measured"] is True and job.best_seconds is not None
        files = store.jobs.files(job.id)
        assert set(files) == {"artifact.zip", "report.json"}
        with blobs.open(files["report.json"].sha256) as file:
            assert json.load(file)["launches"]["how"] == "graph"
