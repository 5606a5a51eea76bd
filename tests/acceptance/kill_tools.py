"""kill -9 at random moments, of whatever a service consists of, and what its books have to say in the end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import httpx
from server_tools import ENDED, ServerProcess, drivers, family, wait

from db.queue import LIMIT
from db.store import Store
from tuner.types import JobState, Purpose

PATIENCE = LIMIT - 2  # deaths in a row without a new trial; a job that dies LIMIT times so rightly fails
TRIALS = 30  # of each job
PAUSE = 6.0  # seconds at most between two kills
GONE = 60.0  # seconds for all processes of a killed server to go: one that is only just starting sees it late
SUBMIT_LIMIT = 120.0  # seconds until a server takes a job: its devices may be about to appear


@dataclass
class Tally:
    """What was killed, and what came of the jobs."""

    killed: Counter[str] = field(default_factory=Counter)
    jobs: int = 0  # all of them succeeded
    trials: int = 0  # all of them once
    lost: int = 0  # of them, failed because several workers went away under them
    taken_over: int = 0  # times that another tuner went on with a job
    seconds: float = 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{what} {times}" for what, times in sorted(self.killed.items()))
        return (
            f"{self.killed.total()} kills in {self.seconds:.0f} s ({kinds}): {self.jobs} jobs succeeded, "
            f"taken over {self.taken_over} times; {self.trials} trials, none of them lost or made twice, "
            f"{self.lost} given up as lost with their workers"
        )


class Served:
    """A server, to be killed and started again; ``victims`` are what else there is to kill."""

    def __init__(self, folder: Path, *options: object, db: str | None = None, device: str = "cpu") -> None:
        self._folder, self._device, self._model = folder, device, b""
        self._options, self._db = ("--no-auth", "--lease", "2", *options), db
        self.server = self._start()
        self.victims: dict[str, Callable[[], None]] = {
            "server": self.kill_server, "tuner": self.kill_tuner, "server and tuner": self.kill_both,
        }  # fmt: skip

    def _start(self) -> ServerProcess:
        return ServerProcess(self._folder, *self._options, db=self._db)

    def kill_tuner(self) -> None:
        for pid in drivers(self.server.data):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_server(self) -> None:
        """The server alone: what it started goes by itself."""
        self.server.kill()
        self._again()

    def kill_both(self) -> None:
        self.kill_tuner()
        self.server.close()
        self._again()

    def _again(self) -> None:
        end = time.monotonic() + GONE
        while left := family(
            self.server.data
        ):  # the kernel kills the drivers of a killed server, and what they started
            assert time.monotonic() < end, f"processes survived their server: {[_command(pid) for pid in left]}"
            time.sleep(0.05)
        self.server = self._start()

    def submit(self, model: Path, seed: int) -> str:
        """Submit a job for a model's file; gives its id."""
        end = time.monotonic() + SUBMIT_LIMIT
        with httpx.Client(base_url=self.server.url, timeout=60) as client:
            sent = client.post("/api/v1/models", params={"name": model.stem}, content=model.read_bytes())
            sent.raise_for_status()
            spec: dict[str, Any] = {"model": sent.json()["id"], "budget": {"trials": TRIALS}, "seed": seed}
            spec |= {"fresh": True, "device": self._device}
            while (made := client.post("/api/v1/jobs", json=spec)).is_error and time.monotonic() < end:
                time.sleep(0.5)
            made.raise_for_status()
            return str(made.json()["id"])

    def close(self) -> None:
        self.server.close()


def torture(
    served: Served, model: Path, kills: int, seed: int, victims: Mapping[str, Callable[[], None]] | None = None
) -> Tally:  # fmt: skip
    """Kill so many times, whatever comes up, while jobs run; then see that all is in the books, each trial once."""
    dice, tally, began = random.Random(seed), Tally(), time.monotonic()
    what = dict(victims or served.victims)
    jobs = [served.submit(model, seed=n) for n in range(max(1, kills // 10))]
    committed: set[int] = set()
    fruitless, seen = 0, 0
    with Store.open(served.server.db) as store:
        while tally.killed.total() < kills:
            current = next((j for j in jobs if (store.jobs.get(j) or _gone(j)).state not in ENDED), None)
            if current is None:
                jobs.append(served.submit(model, seed=len(jobs)))
                fruitless, seen = 0, 0
                continue
            if fruitless >= PATIENCE:
                wait(store, current, lambda j, n=seen: j.measured > n or j.state in ENDED)  # type: ignore[misc]
            else:
                time.sleep(dice.uniform(0.0, PAUSE))
            job = store.jobs.get(current) or _gone(current)
            if job.state in ENDED:
                continue
            fruitless = 0 if job.measured > seen else fruitless + 1
            seen = job.measured
            committed |= {t.id for t in store.trials.page(current)}
            name = dice.choice(sorted(what))
            what[name]()
            tally.killed[name] += 1
        for job_id in jobs:
            job = wait(store, job_id, lambda j: j.state in ENDED)
            assert job.state is JobState.SUCCEEDED, (job.reason, store.queue.attempts(job_id))
            trials = store.trials.mine(job_id)
            searched = [t.candidate.key for t in trials if t.purpose is not Purpose.FINAL and not t.passing]
            assert len(searched) == len(set(searched))  # none was run again
            assert (job.measured, job.measured <= TRIALS) == (len(trials), True)
            assert store.jobs.files(job_id)
            tally.lost += sum(t.passing for t in trials)
            tally.trials += len(trials)
            tally.taken_over += len(store.queue.attempts(job_id)) - 1
        kept = {t.id for j in jobs for t in store.trials.page(j)}
        assert committed <= kept  # none was lost
    answer = httpx.get(f"{served.server.url}/api/v1/jobs/{jobs[-1]}", timeout=30)
    assert answer.json()["state"] == "SUCCEEDED"
    assert httpx.get(f"{served.server.url}/readyz", timeout=30).status_code == 200
    assert served.server.stop() == 0
    assert family(served.server.data) == []
    tally.jobs, tally.seconds = len(jobs), time.monotonic() - began
    return tally


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "gone meanwhile"


def _gone(job: str) -> NoReturn:
    raise AssertionError(f"the job {job} is gone")
