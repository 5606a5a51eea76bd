"""Ctrl-C and kill -9 in the middle of the search: nothing is lost, nothing half-written, nobody left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_tools import LIMIT, complete, conv_net, fusetune, left_behind, lines, living, start, trials_in

pytestmark = pytest.mark.alone


def begin(folder: Path, trials: int) -> subprocess.Popen[str]:
    return start(arguments(folder, trials), folder, stderr=subprocess.STDOUT)


def arguments(folder: Path, trials: int) -> list[object]:
    database = f"sqlite:///{folder}/records.db"
    return ["tune", "net.onnx", "--trials", trials, "--json", "--no-baselines", "--db", database, "--out", "out"]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_interrupted_once_it_ends_with_what_it_has(tmp_path: Path) -> None:
    conv_net(tmp_path / "net.onnx")
    process = begin(tmp_path, 5000)
    try:
        wait_until(lambda: len(trials_in(tmp_path / "records.db")) >= 3, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all in the foreground
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "Stopping with the best found so far" in said
    assert complete(tmp_path / "out")
    assert len(lines(tmp_path / "out" / "trials.jsonl")) == len(trials_in(tmp_path / "records.db")) < 5000
    assert left_behind(tmp_path) == []


def killed_and_run_again(folder: Path, moment: Callable[[subprocess.Popen[str]], None], trials: int) -> None:
    """Kill it at ``moment``, then run the same command to its end."""
    conv_net(folder / "net.onnx")
    process = begin(folder, trials)
    try:
        moment(process)
        assert living(folder)
    finally:
        process.kill()
        process.communicate()
    assert left_behind(folder) == []
    assert not (folder / "out").exists() or complete(folder / "out")
    before = trials_in(folder / "records.db")
    done = fusetune(folder, *arguments(folder, trials))
    assert done.code == 0, done.err
    after = trials_in(folder / "records.db")
    assert after[: len(before)] == before  # nothing stored was lost
    assert done.json["trials"]["reused"] == len(set(before))
    assert done.json["trials"]["measured"] == len(after) - len(before)
    written = lines(folder / "out" / "trials.jsonl")
    assert len(written) == len(after)
    final = {key for key, trial in zip(after, written, strict=True) if trial["purpose"] == "final"}
    assert not (set(before) - final) & (set(after[len(before) :]) - final)  # nothing stored was run again
    assert complete(folder / "out")
    assert left_behind(folder) == []


@pytest.mark.slow  # make test kills servers and their drivers: test_server_killed
def test_killed_after_some_trials_and_run_again(tmp_path: Path) -> None:
    count = random.Random().randint(1, 6)

    def moment(process: subprocess.Popen[str]) -> None:
        wait_until(lambda: len(trials_in(tmp_path / "records.db")) >= count, process)

    killed_and_run_again(tmp_path, moment, 24)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.2, 0.8, 1.6, 2.4, 3.2, 4.0, 5.0, 6.0])
def test_killed_at_any_moment_and_run_again(tmp_path: Path, seconds: float) -> None:
    killed_and_run_again(tmp_path, lambda _: time.sleep(seconds), 60)
