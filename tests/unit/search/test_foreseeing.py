"""What whole models should take: blocks bound by memory take what memory usually gives, not what it gave once."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from tests.unit.search.search_fakes import DEVICE, FakeRunner, MemoryStore
from tuner.graph.ir import Constant, Graph, Layer, Tensor
from tuner.search.foreseeing import Foreseen, default_seconds, known_seconds, memory_rate
from tuner.search.fusion import greedy
from tuner.search.questions import Asked, distinct, questions
from tuner.search.tuning import Tuning
from tuner.types import Candidate

MACHINE = replace(DEVICE, l3=32 << 20)
USUAL, LUCKY = 4e-3, 2.5e-3


def product(rows: int, wide: int) -> Graph:
    tensors = {"x": Tensor("x", (rows, wide)), "y": Tensor("y", (rows, wide))}
    return Graph(("x",), ("y",), (Layer("a", "Gemm", ("x", "w"), ("y",)),), tensors,
                 {"w": Constant("w", (wide, wide), digest="w")})  # fmt: skip


def measured(graph: Graph) -> Asked:
    """All that a graph asks, each fifth kernel measured in a lucky moment."""
    plan = greedy(graph, MACHINE, 2)
    asked = questions(plan, graph, MACHINE, cores=(2,), precision="fp32", seed=0, residency="dram")
    tuning, times = Tuning(distinct(asked), MACHINE, MemoryStore()), dict[str, float]()

    def seconds(candidate: Candidate) -> float:
        return times.setdefault(candidate.key, LUCKY if len(times) % 5 == 4 else USUAL)

    for _ in tuning.run(FakeRunner(seconds), 20, None):
        pass
    assert {LUCKY, USUAL} <= set(times.values())
    return asked


def test_what_waits_for_memory_takes_what_memory_usually_gives() -> None:
    asked = measured(product(1, 4096))
    rate = memory_rate(asked.values(), MACHINE)
    assert next(iter(asked.values())).answer().seconds == LUCKY
    assert rate.bytes_per_second == pytest.approx(4096 * 4096 * 4 / USUAL)
    assert known_seconds(asked, rate) == pytest.approx(USUAL)
    plan = greedy(product(1, 4096), MACHINE, 2)
    assert default_seconds(plan, asked, rate) == pytest.approx(USUAL)


@pytest.mark.parametrize(("rows", "wide"), [(1, 1024), (64, 4096)])
def test_what_computes_much_or_has_few_weights_takes_what_its_best_kernel_took(rows: int, wide: int) -> None:
    asked = measured(product(rows, wide))
    rate = memory_rate(asked.values(), MACHINE)
    assert rate.bytes_per_second == inf
    assert known_seconds(asked, rate) == LUCKY


def test_a_whole_takes_beyond_its_blocks_what_the_plan_begun_with_does() -> None:
    assert Foreseen(2.0, 4.0, 5.0).seconds == 2.5
    assert Foreseen(2.0, 4.0).seconds == Foreseen(2.0, None, 5.0).seconds == 2.0
    assert Foreseen(2.0, 4.0, 5.0).over_default == 2.0
