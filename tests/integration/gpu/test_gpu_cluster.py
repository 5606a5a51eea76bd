"""A worker that offers a GPU, a stand-in, to a cluster: bundles and artifacts go there, results come back."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cluster"))
from cluster_tools import MISSING, Head, Machine, until

from db.blobs import Blobs
from db.store import Store
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.scout import Scout
from service.settings import Settings
from tests.integration.gpu.conftest import Round, unchecked
from tests.unit.gpu.gpu_tools import fake_nvcc
from tuner.measure.cluster.address import parse, settings
from tuner.measure.cluster.place import OnCluster, choose, offered
from tuner.measure.device import toolchain
from tuner.types import Budget, JobSpec, JobState

pytest.importorskip("ray", reason=MISSING)
pytestmark = pytest.mark.alone


@pytest.fixture
def head(gpu: bool) -> Iterator[Head | None]:
    """None where nothing can stand in for a GPU."""
    if not gpu:
        yield None
        return
    with Head() as started:
        yield started


def box(head: Head) -> Machine:
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH")}
    return Machine(head.address, "--device", "gpu", "--name", "box", environment=environment)


def test_bundles_and_artifacts_are_measured_where_the_gpu_is(
    head: Head | None, first_round: Round, tmp_path: Path
) -> None:
    if head is None:
        return
    out = tmp_path / "out"
    shutil.copytree(first_round.out, out)
    with box(head):
        device = choose(offered(head.address), "box")
        assert (device.kind, device.model, device.cores) == ("cuda", "NVIDIA GeForce RTX 3090", 82)
        with closing(OnCluster(head.address, device)) as place:
            found = place.gpu.measure(unchecked(out / "bundle", 2))
            assert found["device"]["arch"] == "sm_86"
            assert [bool(r["samples"]) for r in found["results"]] == [True] * 2
            assert place.gpu.time(out)["how"] == "graph"


@pytest.mark.slow
def test_a_servers_job_for_it_waits_until_it_is_there(
    head: Head | None, first_round: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no trials: where launches do nothing no candidate could be right."""
    if head is None:
        return
    monkeypatch.setenv("PATH", os.pathsep.join([str(fake_nvcc(tmp_path / "nvcc")), os.environ["PATH"]]))
    chosen = Settings(db=f"sqlite:///{tmp_path}/f.db", data=tmp_path, cluster=head.address, lease=5.0)
    where = parse(head.address)
    with Store.open(chosen.db) as store:
        blobs = Blobs(chosen.blobs, store.database, None)
        model = blobs.put([first_round.model.read_bytes()]).sha256
        dispatcher = Dispatcher(store, blobs, chosen, {}, Scout(chosen.db, str(where), settings(where, {})))
        dispatcher.start()
        try:
            with box(head):
                until(lambda: store.devices.offered())
                (known,) = store.devices.list()
                assert known.device.name == "box" and known.device.kind == "cuda"
                spec = JobSpec(model, "box", "metaschedule", Budget(trials=0))
                of = known.device.fingerprint
                id = store.jobs.submit(spec, of, toolchain(), model_name="m", device_name="box")[0].id
                dispatcher.wake()
                until(lambda: store.jobs.get(id).state is JobState.RUNNING)  # type: ignore[union-attr]
            until(lambda: store.jobs.get(id).message == "waiting for device", 300)  # type: ignore[union-attr]
            time.sleep(1.0)
            with box(head):
                until(lambda: store.jobs.get(id).state is not JobState.RUNNING, 300)  # type: ignore[union-attr]
        finally:
            dispatcher.stop()
        job = store.jobs.get(id)
        assert job is not None and job.state is JobState.SUCCEEDED, job
        assert job.report is not None and job.report["measured"] is True and job.report["launches"]["how"] == "graph"
        assert set(store.jobs.files(id)) == {"artifact.zip", "report.json"}
