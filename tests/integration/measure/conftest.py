"""Runners over the fake build functions, and a check that no process outlives its test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import psutil
import pytest

from tuner.measure.device import detect_cpu
from tuner.measure.local import LocalRunner
from tuner.measure.options import MeasureOptions

OPTIONS = MeasureOptions(
    build_function="measure_fakes:build", onnx_function="measure_fakes:to_onnx", build_limit=3, run_limit=3,
    memory_limit=256 << 20, sample_seconds=0.002, patience=0,
)  # fmt: skip


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_of(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children(recursive=True) if alive(p)]


@pytest.fixture
def make_runner() -> Iterator[Callable[..., LocalRunner]]:
    """A factory of runners; all are closed at the end, and nothing may be left then."""
    before = {p.pid for p in children_of(os.getpid())}
    made: list[LocalRunner] = []

    def make(options: MeasureOptions = OPTIONS) -> LocalRunner:
        made.append(LocalRunner(detect_cpu(), options))
        return made[-1]

    yield make
    for runner in made:
        runner.close()
        assert not runner._scratch.path.exists()
    assert [p for p in children_of(os.getpid()) if p.pid not in before] == []


@pytest.fixture
def runner(make_runner: Callable[..., LocalRunner]) -> LocalRunner:
    return make_runner()
