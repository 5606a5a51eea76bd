"""Which blocks of a found plan run side by side: told from measured times, in an order that can be built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.search.search_fakes import DEVICE, FakeRunner, MemoryStore
from tuner.build.blocks import check_blocks
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.plan.legality import validate
from tuner.plan.plan import Plan
from tuner.search.fusion import greedy
from tuner.search.questions import Asked, answered, distinct, questions
from tuner.search.sidebyside import FORK, side_by_side
from tuner.search.tuning import Tuning
from tuner.types import Candidate

CORES = (1, 2, 4)
IMAGE = (1, 64, 14, 14)


def module() -> Graph:
    """A stem; three branches, of which one is two convolutions; joined, and read by a convolution."""
    made = {"s": ("x", 64), "a": ("s", 64), "b": ("s", 32), "c": ("b", 64), "d": ("s", 48)}
    layers = [Layer(n, "Conv", (source, f"w{n}"), (n,), freeze_attrs({"kernel_shape": (1, 1)}))
              for n, (source, _) in made.items()]  # fmt: skip
    layers.append(Layer("j", "Concat", ("a", "c", "d"), ("j",), freeze_attrs({"axis": 1})))
    layers.append(Layer("y", "Conv", ("j", "wy"), ("y",), freeze_attrs({"kernel_shape": (1, 1)})))
    channels = {n: width for n, (_, width) in made.items()} | {"x": 64, "j": 176, "y": 64}
    tensors = {n: Tensor(n, (1, width, *IMAGE[2:])) for n, width in channels.items()}
    sources = {n: source for n, (source, _) in made.items()} | {"y": "j"}
    constants = {f"w{n}": Constant(f"w{n}", (channels[n], channels[source], 1, 1), digest=n)
                 for n, source in sources.items()}  # fmt: skip
    return Graph(("x",), ("y",), tuple(layers), tensors, constants)


GRAPH = module()


def found(seconds: Callable[[int], float], graph: Graph = GRAPH) -> tuple[Plan, Asked]:
    """The greedy plan with its best kernels, which take so long on so many cores."""
    plan = greedy(graph, DEVICE, max(CORES))
    asked = questions(plan, graph, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    tuning = Tuning(distinct(asked), DEVICE, MemoryStore())
    for _ in tuning.run(FakeRunner(lambda c: seconds(c.cores)), 120, None):
        pass
    return answered(plan, asked), asked


def launch_bound(cores: int) -> float:
    return 10e-6 - 1e-6 * (cores == 4)


def lanes(plan: Plan) -> list[list[list[str]]]:
    """The stages of several lanes, by the first layers of their blocks."""
    return [
        [[b.layers[0] for b in lane.blocks] for lane in stage.lanes] for stage in plan.stages if len(stage.lanes) > 1
    ]


def test_branches_that_cores_hardly_help_run_side_by_side() -> None:
    plan, asked = found(launch_bound)
    best = side_by_side(plan, GRAPH, asked, DEVICE, "cache", lambda _: True)
    assert best is not None
    assert lanes(best.plan) == [[["a"], ["c"], ["d"]]]  # behind b: it and c in one lane would take 20 us
    assert best.seconds == pytest.approx(3 * 9e-6 + 10e-6 + FORK)
    assert best.in_turn == pytest.approx(6 * 9e-6)
    validate(best.plan, GRAPH, DEVICE.cores)
    check_blocks(best.plan, GRAPH, DEVICE)
    assert sorted(b.layers for b in best.plan.blocks) == sorted(b.layers for b in plan.blocks)
    for stage in best.plan.stages:
        for block in (b for lane in stage.lanes for b in lane.blocks if len(stage.lanes) > 1):
            search = asked[block.layers].searches[block.template, block.cores]
            assert search.best is not None
            assert search.best[0] == block.knobs


def test_what_all_cores_do_faster_stays_in_turn() -> None:
    plan, asked = found(lambda cores: 40e-6 / cores)
    assert side_by_side(plan, GRAPH, asked, DEVICE, "cache", lambda _: True) is None


def test_kernels_that_cannot_share_several_cores_have_one() -> None:
    """On two of four cores they take half as long as on one, and no less on four."""
    plan, asked = found(lambda cores: 20e-6 / min(cores, 2))
    best = side_by_side(plan, GRAPH, asked, DEVICE, "cache", lambda _: True)
    assert best is not None
    assert {lane.cores for stage in best.plan.stages if len(stage.lanes) > 1 for lane in stage.lanes} == {2}
    refused: list[Candidate] = []

    def alone(candidate: Candidate) -> bool:
        refused.append(candidate)
        return False

    best = side_by_side(plan, GRAPH, asked, DEVICE, "cache", alone)
    assert best is not None
    assert {lane.cores for stage in best.plan.stages if len(stage.lanes) > 1 for lane in stage.lanes} == {1}
    assert {c.cores for c in refused} == {2}


def test_what_was_not_measured_has_no_company() -> None:
    plan = greedy(GRAPH, DEVICE, max(CORES))
    asked = questions(plan, GRAPH, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    assert side_by_side(answered(plan, asked), GRAPH, asked, DEVICE, "cache", lambda _: True) is None


def test_what_is_read_in_another_layout_has_no_company() -> None:
    plan, asked = found(launch_bound)
    converted = plan.map(lambda b: replace(b, reads={"s": "NCHW8c"}) if b.layers[0] == "a" else b)
    best = side_by_side(converted, GRAPH, asked, DEVICE, "cache", lambda _: True)
    assert best is not None
    assert "a" not in {x for stage in lanes(best.plan) for lane in stage for x in lane}
