"""Several writers at once, and writers killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

from db_values import DEVICE, TOOLCHAIN, good, new_job, put

from db.store import Store

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("db_values.py")


def writer(url: str, first: int, trials: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), url, str(first), str(trials)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_writer_loses_at_most_the_trial_in_flight(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    dice = random.Random(7)
    jobs: dict[str, list[int]] = {}  # job -> knobs its writer saw committed
    for kill in range(10):
        process = writer(url, 1_000_000 * kill, 1_000_000)
        assert process.stdout is not None
        words = process.stdout.readline().split()
        # The first kills come early, to meet a young database too; moments within a commit are hit by the timer.
        timer = threading.Timer(dice.uniform(0.0, 0.3), process.send_signal, [signal.SIGKILL])
        timer.start()
        # Not communicate(): it would miss what readline() has read ahead.
        rest = process.stdout.read()
        process.communicate(timeout=60)
        timer.join()
        assert process.returncode == -signal.SIGKILL
        # The kill may cut the last line short.
        jobs[words[1]] = [int(line) for line in rest[: rest.rfind("\n") + 1].splitlines()]
    assert sum(map(len, jobs.values())) > 10

    with Store.open(url) as store:
        for job, committed in jobs.items():
            found = [each.trial.candidate.knobs["reg_n"] for each in store.trials.page(job, limit=1_000_000)]
            assert found[: len(committed)] == committed
            assert len(found) - len(committed) <= 1
            told = [event for event in store.events.after(job, limit=1_000_000) if event.kind == "trial"]
            assert [event.payload["number"] for event in told] in (
                found,
                found[:-1],
            )
    with sqlite3.connect(tmp_path / "x.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


def test_a_writer_killed_while_making_the_database_leaves_it_usable(tmp_path: Path) -> None:
    dice = random.Random(8)
    for number in range(5):
        url = f"sqlite:///{tmp_path}/{number}.db"
        process = writer(url, 0, 0)
        threading.Timer(dice.uniform(0.2, 0.8), process.kill).start()
        process.communicate(timeout=60)
        with Store.open(url) as store:
            put(store, new_job(store), good(1, 1.0))


def test_two_processes_and_a_reader_share_a_database(url: str) -> None:
    with Store.open(url) as store:
        writers = [writer(url, 1000 * number, 200) for number in range(2)]
        while any(process.poll() is None for process in writers):
            assert len(store.trials.samples(DEVICE.fingerprint, TOOLCHAIN)) <= 400
        for process in writers:
            assert process.wait() == 0, process.stderr and process.stderr.read()
            process.communicate()
        numbers = {trial.candidate.knobs["reg_n"] for trial in store.trials.samples(DEVICE.fingerprint, TOOLCHAIN)}
    assert numbers == {*range(200), *range(1000, 1200)}


def test_threads_share_a_store_and_number_the_events_of_one_job_without_gaps(store: Store) -> None:
    job = new_job(store)
    numbers: list[int] = []

    def write(first: int) -> None:
        for number in range(first, first + 25):
            numbers.append(store.events.add(job, "x", {}))
            put(store, job, good(number, 1.0))

    threads = [threading.Thread(target=write, args=[25 * number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The first event told that the job is queued.
    assert sorted(numbers) == list(range(2, 102))
    assert [event.seq for event in store.events.after(job)] == list(range(1, 102))
    assert len(store.trials.page(job)) == 100
