"""`fusetune tune --cluster` from start to artifact, with a worker that is killed on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster_tools import MISSING, Head, Machine, processes

from db.store import Store
from tuner.environment import child_environment
from tuner.measure.device import detect_cpu

pytest.importorskip("ray", reason=MISSING)
pytestmark = [pytest.mark.alone, pytest.mark.slow]


def fusetune(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "service.cli", *args]
    return subprocess.Popen(
        command, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def test_a_job_survives_its_worker_and_leaves_what_a_local_one_leaves(head: Head, tmp_path: Path) -> None:
    made = fusetune("zoo", "squeezenet", "--out", str(tmp_path))
    assert made.wait(120) == 0, made.communicate()[1]
    url = f"sqlite:///{tmp_path}/fusetune.db"
    with Machine(head.address, "--name", "here") as machine:
        tuning = fusetune(
            "tune", f"{tmp_path}/squeezenet.onnx", "--cluster", head.address, "--device", "here", "--trials", "60",
            "--strategy", "greedy", "--db", url, "--out", f"{tmp_path}/out", "--json",
        )  # fmt: skip
        _wait_for_trials(url, 15, tuning)
        (node,) = processes("tuner.measure.cluster.node")
        node.kill()
        out, err = tuning.communicate(timeout=240)
        assert tuning.returncode == 0, err
        assert machine.joins == 2
    report = json.loads(out)
    assert report["verification"]["passed"]
    assert report["device"]["fingerprint"] == detect_cpu().fingerprint
    assert report["trials"]["measured"] == 60 or report["trials"]["measured"] == 59  # one is the model as a whole
    assert report["latency_ms"]["tuned"]["median"] > 0 and report["blocks"]
    assert (tmp_path / "out/model.so").is_file()
    with Store.open(url) as store:
        (job,) = store.jobs.list().items
        kept = Counter(t.candidate.key for t in store.trials.mine(job.id) if t.purpose != "final")
        assert job.state == "SUCCEEDED"
        assert set(kept.values()) == {1}
        assert store.devices.list(name="here")


def _wait_for_trials(url: str, count: int, tuning: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    with Store.open(url) as store:
        while not any(job.measured >= count for job in store.jobs.list().items):
            assert tuning.poll() is None, tuning.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.1)
