"""kill -9 of the server, the tuner, or both, at random moments: every job ends rightly, nothing is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from cli_tools import conv_net
from server_tools import ENDED, ServerProcess, drivers, family, wait

from db.queue import LIMIT
from db.store import Store
from tuner.types import JobState, Purpose

pytestmark = pytest.mark.alone

PATIENCE = LIMIT - 2  # deaths in a row without a new trial; a job that dies LIMIT times so rightly fails


def _upload_and_submit(server: ServerProcess, model: Path, trials: int, seed: int) -> str:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        sent = client.post("/api/v1/models", params={"name": model.stem}, content=model.read_bytes())
        sent.raise_for_status()
        spec = {"model": sent.json()["id"], "budget": {"trials": trials}, "seed": seed, "fresh": True}
        made = client.post("/api/v1/jobs", json=spec)
        made.raise_for_status()
        return str(made.json()["id"])


def _torture(folder: Path, kills: int, seed: int, db: str | None = None) -> None:
    dice = random.Random(seed)
    model = conv_net(folder / "small.onnx")
    server = ServerProcess(folder, "--no-auth", "--lease", "2", db=db)
    jobs = [_upload_and_submit(server, model, trials=30, seed=n) for n in range(max(1, kills // 10))]
    done = 0
    with Store.open(server.db) as store:
        try:
            fruitless, seen = 0, 0
            committed: set[int] = set()
            while done < kills:
                current = next((j for j in jobs if (store.jobs.get(j) or _gone(j)).state not in ENDED), None)
                if current is None:
                    jobs.append(_upload_and_submit(server, model, trials=30, seed=len(jobs)))
                    fruitless, seen = 0, 0
                    continue
                if fruitless >= PATIENCE:
                    wait(store, current, lambda j, n=seen: j.measured > n or j.state in ENDED)  # type: ignore[misc]
                else:
                    time.sleep(dice.uniform(0.0, 6.0))
                job = store.jobs.get(current) or _gone(current)
                if job.state in ENDED:
                    continue
                fruitless = 0 if job.measured > seen else fruitless + 1
                seen = job.measured
                committed |= {t.id for t in store.trials.page(current)}
                what = dice.choice(["server", "driver", "both"])
                if what != "server":
                    for pid in drivers(server.data):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                if what != "driver":
                    server.close() if what == "both" else server.kill()
                    _all_gone(server.data)
                    server = ServerProcess(folder, "--no-auth", "--lease", "2", db=db)
                done += 1
            for job_id in jobs:
                job = wait(store, job_id, lambda j: j.state in ENDED)
                assert job.state is JobState.SUCCEEDED, (job.reason, store.queue.attempts(job_id))
                trials = store.trials.mine(job_id)
                searched = [t.candidate.key for t in trials if t.purpose is not Purpose.FINAL and not t.passing]
                assert len(searched) == len(set(searched))  # none was run again
                assert (job.measured, job.measured <= 30) == (len(trials), True)
                assert store.jobs.files(job_id)
            kept = {t.id for j in jobs for t in store.trials.page(j)}
            assert committed <= kept  # none was lost
            answer = httpx.get(f"{server.url}/api/v1/jobs/{jobs[-1]}", timeout=30)
            assert answer.json()["state"] == "SUCCEEDED"
            assert httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200
            assert server.stop() == 0
            assert family(server.data) == []
        finally:
            server.close()


def _gone(job: str) -> NoReturn:
    raise AssertionError(f"the job {job} is gone")


def _all_gone(data: Path) -> None:
    """The kernel kills the drivers of a killed server, and all that they started."""
    end = time.monotonic() + 5
    while family(data):
        assert time.monotonic() < end, "processes survived their server"
        time.sleep(0.05)


@pytest.mark.timeout(900)
def test_ten_random_kills(tmp_path: Path) -> None:
    _torture(tmp_path, kills=10, seed=int(os.environ.get("FUSETUNE_KILL_SEED", "3")))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_random_kills(tmp_path: Path) -> None:
    _torture(tmp_path, kills=200, seed=11)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_random_kills_on_either_database(tmp_path: Path, url: str) -> None:
    _torture(tmp_path, kills=50, seed=12, db=url)
