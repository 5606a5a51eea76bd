"""A server that drives the devices of a cluster: they come and go, its jobs wait and go on."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_tools import MISSING, Head, Machine, processes, until

from db.blobs import Blobs
from db.jobs import Job
from db.store import Store
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.scout import Scout
from service.settings import Settings
from tuner.measure.cluster.address import parse, settings
from tuner.measure.device import detect_cpu, toolchain
from tuner.types import Budget, JobSpec, JobState, Purpose

sys.path.append(str(Path(__file__).parents[1] / "dispatch"))
from dispatch_tools import tiny_model

pytest.importorskip("ray", reason=MISSING)
pytestmark = [pytest.mark.alone, pytest.mark.slow]


@contextmanager
def serving(store: Store, url: str, address: str, folder: Path) -> Iterator[Dispatcher]:
    """A server's dispatcher that drives this cluster's devices, and none of its own."""
    chosen = Settings(db=url, data=folder, cluster=address, lease=5.0)
    where = parse(address)
    scout = Scout(url, str(where), settings(where, {}))
    dispatcher = Dispatcher(store, Blobs(chosen.blobs, store.database, None), chosen, {}, scout)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        dispatcher.stop()


def test_a_job_waits_for_its_device_and_goes_on_when_it_is_back(head: Head, tmp_path: Path) -> None:
    url, device = f"sqlite:///{tmp_path}/f.db", detect_cpu().fingerprint
    with Store.open(url) as store:
        model = Blobs(tmp_path / "blobs", store.database, None).put([tiny_model()]).sha256
        spec = JobSpec(model, "bench", "greedy", Budget(trials=80))

        def job(of: str | None = None) -> Job:
            found = store.jobs.get(of or id)
            assert found is not None
            return found

        with serving(store, url, head.address, tmp_path) as dispatcher:
            with Machine(head.address, "--name", "bench"):
                until(lambda: store.devices.offered() == {device})
                assert store.devices.list()[0].device.name == "bench"
                id = store.jobs.submit(spec, device, toolchain(), model_name="tiny", device_name="bench")[0].id
                dispatcher.wake()
                until(lambda: job().measured >= 10, 120)
                behind = store.jobs.submit(spec, device, toolchain(), model_name="tiny", device_name="bench")[0].id
            until(lambda: job().message == "waiting for device")
            assert store.devices.offered() == set()
            before = job()
            time.sleep(3.0)
            assert job().state is JobState.RUNNING
            until(lambda: job(behind).message == "waiting for device")
            assert job(behind).state is JobState.QUEUED
            assert job().elapsed - before.elapsed < 1.0  # waiting costs the job nothing
            with Machine(head.address, "--name", "bench"):
                until(lambda: job(behind).message is None)
                store.jobs.request(behind, "cancel")
                until(lambda: job().state is not JobState.RUNNING, 200)
        assert job().state is JobState.SUCCEEDED, job().reason
        known = store.devices.get(device)
        assert known is not None and known.peak_flops is not None and known.peak_flops > 1e9
        kept = Counter(t.candidate.key for t in store.trials.mine(id) if t.purpose is not Purpose.FINAL)
        assert max(kept.values()) == 1
    assert processes("service.dispatch.scout") == []
