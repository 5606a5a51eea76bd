"""The processes that build: orders in time, orders given up, and who takes the place of a process that was ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.designs.design_functions import matmul
from tests.unit.gpu.gpu_tools import fake_nvcc
from tuner.gpu.crew import Crew, Order
from tuner.gpu.explore import Seen
from tuner.gpu.lower import Task
from tuner.gpu.nvcc import find_nvcc
from tuner.measure.device import detect_cpu, devices
from tuner.measure.process import Outcome
from tuner.types import FailureKind


class Given:
    """A desk of these orders."""

    def __init__(self, *orders: Order) -> None:
        self._orders: Iterator[Order] = iter(orders)
        self.taken: list[tuple[Order, Outcome]] = []

    def next(self) -> Order | None:
        return next(self._orders, None)

    def take(self, order: Order, outcome: Outcome) -> None:
        self.taken.append((order, outcome))


@pytest.mark.slow
def test_what_is_given_up_costs_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.gpu.nvcc._candidates", lambda: [fake_nvcc(tmp_path / "nvcc") / "nvcc"])
    task = Task(("matmul",), matmul(), 1)
    task.save(tmp_path / "task.json")
    explore = {"order": "explore", "task": str(tmp_path / "task.json"), "spaces": True, "points": 2, "random": [0],
               "default": str(tmp_path / "default"),
               "known": [], "until": float("inf")}  # fmt: skip
    late, unknown, good = Order(explore, until=time.monotonic()), Order({"order": "dance"}), Order(explore)
    desk = Given(late, unknown, good)
    with closing(Crew(devices("rtx3090"), detect_cpu(), find_nvcc(), 0, "fp32", tmp_path)) as crew:
        crew.work(desk)
    came = {id(order): outcome for order, outcome in desk.taken}
    assert len(came) == 3
    failure = came[id(late)].failure
    assert failure is not None and failure.kind is FailureKind.TIMEOUT
    failure = came[id(unknown)].failure
    assert failure is not None and "dance" in failure.message
    answer = came[id(good)].answer
    assert answer is not None
    seen = [Seen.from_json(each) for each in answer["seen"]]
    assert {each.candidate.template for each in seen} == {"dlight", "metaschedule"}
    assert all(each.candidate.workload_hash == task.hash for each in seen)
