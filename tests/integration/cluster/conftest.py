"""A Ray cluster on loopback: a head for the tests of a module, workers as each test wants them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "measure"))  # the fake build functions; children get our path

from cluster_tools import OPTIONS, Head, Machine

from tuner.measure.cluster.cluster import Cluster
from tuner.measure.cluster.runner import ClusterRunner
from tuner.measure.device import detect_cpu
from tuner.measure.options import MeasureOptions


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with Head() as started:
        yield started


@pytest.fixture(scope="module")
def machine(head: Head) -> Iterator[Machine]:
    """A worker that all tests share which take none down."""
    with Machine(head.address) as started:
        yield started


@pytest.fixture
def make_runner(head: Head) -> Iterator[Callable[..., ClusterRunner]]:
    made: list[ClusterRunner] = []

    def make(options: MeasureOptions = OPTIONS, **more: Any) -> ClusterRunner:
        made.append(ClusterRunner(Cluster(head.address), detect_cpu(), options, **more))
        return made[-1]

    yield make
    for runner in made:
        runner.close()
        assert not runner._scratch.path.exists()


@pytest.fixture
def runner(machine: Machine, make_runner: Callable[..., ClusterRunner]) -> ClusterRunner:
    return make_runner()
