"""Parts of a driver: the model's file under its own name, and the log of trials that failed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.blobs import Blobs
from db.store import Store
from service.dispatch.driver import AWAY, Assignment, _model, drive
from service.dispatch.jobstore import JobStore
from service.logs import set_up
from tests.api_server import DEVICE, TOOLCHAIN, bad, good
from tuner.types import JobSpec


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/fusetune.db") as made:
        made.devices.put(DEVICE)
        yield made


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet 50", "resnet_50.onnx"),
        ("模" * 200, "模" * 33 + ".onnx"),
        ("𝐀" * 200, "𝐀" * 25 + ".onnx"),
        ("../../x", "_.._x.onnx"),
        ("", "model.onnx"),
        ("...", "model.onnx"),
    ],
)
def test_a_model_has_a_name_that_a_file_can_have(store: Store, tmp_path: Path, name: str, file: str) -> None:
    blobs = Blobs(tmp_path / "blobs", store.database, None)
    sha256 = blobs.put([b"a model"]).sha256
    work = tmp_path / "work"
    work.mkdir()
    path = _model(blobs, sha256, name, work)
    assert path.name == file
    assert path.parent == work
    assert path.read_bytes() == b"a model"


def test_a_database_that_cannot_be_opened_is_no_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "f.db").write_bytes(b"no database at all" * 100)
    assignment = Assignment(
        f"sqlite:///{tmp_path}/f.db", str(tmp_path / "blobs"), None, str(tmp_path), "job", 1, "me", 3.0,
        DEVICE.to_json(),
    )  # fmt: skip
    assert drive(assignment) == AWAY
    assert "the database is away" in caplog.text


def test_failed_trials_are_logged_with_job_and_trial(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    job, _ = store.jobs.submit(JobSpec("0" * 64), DEVICE.fingerprint, TOOLCHAIN)
    claim = store.queue.start(job.id, "somebody", 60.0)
    before = logging.getLogger().handlers[:], logging.getLogger().level
    set_up(json_lines=True)
    try:
        trials = JobStore(store, claim, DEVICE, TOOLCHAIN, lambda _: "Conv 3x3")
        trials.add(good(1))
        trials.add(bad(2))
    finally:
        logging.getLogger().handlers[:], logging.getLogger().level = before
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [each for each in lines if each["logger"] == "service.dispatch.jobstore"]
    (failed,) = store.trials.page(job.id, state="failed")
    assert (line["job"], line["trial"]) == (job.id, str(failed.id))
    assert "crash" in line["message"]
    assert "Conv 3x3" in line["message"]
