"""The search knows that a concatenation written into slices takes no time: none is measured, none is paid for."""

from __future__ import annotations

import pytest

from tests.unit.search.search_fakes import DEVICE, FakeRunner
from tests.unit.search.test_replanning import CORES, run, tuned
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.plan.joins import free_blocks
from tuner.search.fusion import greedy
from tuner.search.questions import answered, questions
from tuner.search.replanning import replan
from tuner.search.strategies.joint import Joint
from tuner.types import Candidate


def fire(images: int) -> Graph:
    """SqueezeNet's fire module without its activations: two convolutions side by side, joined, and one behind."""
    attrs = {"pads": (0, 0, 0, 0), "strides": (1, 1), "kernel_shape": (1, 1), "group": 1, "dilations": (1, 1)}
    conv = freeze_attrs(attrs)
    layers = (
        Layer("s", "Conv", ("x", "ws"), ("s1",), conv),
        Layer("a", "Conv", ("s1", "wa"), ("a1",), conv),
        Layer("b", "Conv", ("s1", "wb"), ("b1",), conv),
        Layer("j", "Concat", ("a1", "b1"), ("j1",), freeze_attrs({"axis": 1})),
        Layer("z", "Conv", ("j1", "wz"), ("y",), conv),
    )
    shapes = {"x": 64, "s1": 64, "a1": 64, "b1": 64, "j1": 128, "y": 64}
    weights = {"ws": (64, 64), "wa": (64, 64), "wb": (64, 64), "wz": (64, 128)}
    return Graph(
        ("x",), ("y",), layers, {n: Tensor(n, (images, c, 28, 28)) for n, c in shapes.items()},
        {n: Constant(n, (*shape, 1, 1), digest=n) for n, shape in weights.items()},
    )  # fmt: skip


def seconds(candidate: Candidate) -> float:
    ops = [layer["op"] for layer in candidate.workload["layers"]]
    return 1.0 if "Concat" in ops else 1e-3 / candidate.cores


def joins_measured(runner: FakeRunner) -> int:
    return sum(any(x["op"] == "Concat" for x in c.workload["layers"]) for c, _ in runner.asked)


@pytest.mark.parametrize(("images", "free"), [(1, True), (2, False)])
def test_a_plan_asks_nothing_about_a_concatenation_that_is_written_into_slices(images: int, free: bool) -> None:
    graph = fire(images)
    plan = greedy(graph, DEVICE, max(CORES))
    asked = questions(plan, graph, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    assert (("j",) not in asked) == free
    assert [b.layers for b in free_blocks(graph, answered(plan, asked))] == ([("j",)] if free else [])


@pytest.mark.parametrize(("images", "free"), [(1, True), (2, False)])
def test_replanning_measures_and_counts_only_real_copies(images: int, free: bool) -> None:
    graph, runner = fire(images), FakeRunner(seconds)
    tuning, _ = tuned(runner, graph)
    replanning = replan(graph, CORES, "cache", tuning, Joint())
    run(replanning, runner)
    choice = replanning.choice()
    assert choice is not None
    plan, asked = replanning.plan(choice)
    assert (choice.seconds < 0.1) == free
    assert (("j",) not in asked) == free
    assert [b.layers for b in free_blocks(graph, plan)] == ([("j",)] if free else [])
    assert (joins_measured(runner) == 0) == free
