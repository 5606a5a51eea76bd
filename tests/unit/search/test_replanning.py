"""The search for a better plan around a tuned one: what it measures, when it ends, and what it chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

import tuner.search.replanning as replanning_module
from tests.unit.search.search_fakes import DEVICE, FakeRunner, MemoryStore
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.kernels.base import KernelTemplate
from tuner.kernels.registry import TEMPLATES
from tuner.plan.legality import validate
from tuner.search.fusion import greedy
from tuner.search.questions import Question, answered, distinct, questions
from tuner.search.replanning import BATCH, MOST, SHARE, Replanning, at_once, replan
from tuner.search.strategies.joint import Joint
from tuner.search.tuning import Tuning
from tuner.types import Candidate, Device, FailureKind

CORES = (1, 2, 4)


def residual_net() -> Graph:
    """Two convolutions with a sum over them: conv, relu, conv, add, relu."""
    shape = (1, 64, 28, 28)
    attrs = freeze_attrs({"pads": (1, 1, 1, 1), "strides": (1, 1), "kernel_shape": (3, 3), "group": 1,
                          "dilations": (1, 1)})  # fmt: skip
    layers = (
        Layer("a", "Conv", ("x", "wa"), ("ta",), attrs),
        Layer("b", "Relu", ("ta",), ("tb",)),
        Layer("c", "Conv", ("tb", "wc"), ("tc",), attrs),
        Layer("d", "Add", ("tc", "tb"), ("td",)),
        Layer("e", "Relu", ("td",), ("y",)),
    )
    tensors = {n: Tensor(n, shape) for n in ("x", "ta", "tb", "tc", "td", "y")}
    weights = {n: Constant(n, (64, 64, 3, 3), digest=n) for n in ("wa", "wc")}
    return Graph(("x",), ("y",), layers, tensors, weights)


def seconds(candidate: Candidate) -> float:
    """Blocks with a sum in them are slow, everything else is quick: not fusing the sum is best."""
    ops = [layer["op"] for layer in candidate.workload["layers"]]
    time = 1e-3 * ("Conv" in ops) + 1e-5 * len(ops) + 5e-3 * ("Conv" in ops and "Add" in ops)
    return time / candidate.cores + 1e-6 * candidate.cores


def tuned(runner: FakeRunner, graph: Graph) -> tuple[Tuning, Mapping[tuple[str, ...], Question]]:
    plan = greedy(graph, DEVICE, max(CORES))
    asked = questions(plan, graph, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    tuning = Tuning(distinct(asked), DEVICE, MemoryStore())
    for _ in tuning.run(runner, 60, None):
        pass
    return tuning, asked


def run(replanning: Replanning, runner: FakeRunner, trials: int | None = None) -> int:
    return sum(1 for _ in replanning.run(runner, trials, None))


def test_a_better_fusion_is_found_and_may_be_built() -> None:
    graph, runner = residual_net(), FakeRunner(seconds)
    tuning, asked = tuned(runner, graph)
    before = tuning.latency
    replanning = replan(graph, CORES, "cache", tuning, Joint())
    assert run(replanning, runner) > 0
    choice = replanning.choice()
    assert choice is not None and before is not None and choice.seconds < 0.7 * before
    plan, found = replanning.plan(choice)
    validate(plan, graph, DEVICE.cores)
    final = answered(plan, found)
    assert all(not {"c", "d"} <= set(block.layers) for block in final.blocks)
    assert all(block.knobs is not None and block.cores == 4 for block in final.blocks if "c" in block.layers)
    assert asked.keys() != found.keys()


def test_nothing_is_measured_twice_and_the_end_is_reached() -> None:
    graph, runner = residual_net(), FakeRunner(seconds)
    tuning, _ = tuned(runner, graph)
    replanning = replan(graph, CORES, "cache", tuning, Joint())
    run(replanning, runner)
    searched = [c.key for c, purpose in runner.asked if purpose.value != "final"]
    assert len(searched) == len(set(searched))
    assert run(replanning, runner) == 0


def test_the_budget_is_kept() -> None:
    graph, runner = residual_net(), FakeRunner(seconds)
    tuning, _ = tuned(runner, graph)
    budget = tuning.measured + 3
    run(replan(graph, CORES, "cache", tuning, Joint()), runner, budget)
    assert tuning.measured == budget


def test_what_takes_long_to_ask_is_asked_seldom() -> None:
    assert at_once(asking=0.001, measuring=0.1) == BATCH, "asking costs nothing to speak of"
    assert 0.2 / (at_once(asking=0.2, measuring=0.2) * 0.2) <= SHARE
    assert at_once(asking=5.0, measuring=0.1) == MOST, "or the first plan would be the last"
    assert at_once(asking=0.1, measuring=0.0) == BATCH


def test_known_trials_of_other_plans_cost_nothing() -> None:
    graph, runner = residual_net(), FakeRunner(seconds)
    tuning, _ = tuned(runner, graph)
    first = replan(graph, CORES, "cache", tuning, Joint())
    run_before = run(first, runner)
    again = FakeRunner(seconds)
    plan = greedy(graph, DEVICE, max(CORES))
    asked = questions(plan, graph, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    later = Tuning(distinct(asked), DEVICE, MemoryStore(tuning.trials))
    later.recall()
    second = replan(graph, CORES, "cache", later, Joint())
    assert run(second, again) < run_before / 4  # knowing more from the start, it may look elsewhere
    known = {c.key for c, _ in runner.asked}
    assert not known.intersection(again.keys)
    chosen, before = second.choice(), first.choice()
    assert chosen is not None and before is not None and chosen.seconds <= before.seconds


def test_what_is_stored_of_other_plans_gives_the_plan_without_measuring() -> None:
    graph, runner = residual_net(), FakeRunner(seconds)
    tuning, _ = tuned(runner, graph)
    first = replan(graph, CORES, "cache", tuning, Joint())
    run(first, runner)
    plan = greedy(graph, DEVICE, max(CORES))
    asked = questions(plan, graph, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    later = Tuning(distinct(asked), DEVICE, MemoryStore(tuning.trials))
    later.recall()
    second = replan(graph, CORES, "cache", later, Joint())
    second.recall()
    chosen, before = second.choice(), first.choice()
    assert chosen is not None and before is not None and chosen.seconds == before.seconds
    assert second.plan(chosen)[0].hash == first.plan(before)[0].hash
    assert later.measured == 0 and later.reused == len({t.candidate.key for t in tuning.trials})


def test_of_blocks_that_nothing_is_known_of_no_question_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, runner = residual_net(), FakeRunner(seconds)
    tuning, _ = tuned(runner, graph)
    made = []
    monkeypatch.setattr(replanning_module, "question_of", lambda *args, **options: made.append(args))
    replan(graph, CORES, "cache", tuning, Joint()).recall()
    assert made == []


def test_a_template_is_asked_once_about_a_block_with_its_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, runner = residual_net(), FakeRunner(seconds)
    tuning, _ = tuned(runner, graph)
    asked: list[tuple[str, Graph, Mapping[str, str]]] = []
    for maker in {type(t): t for t in TEMPLATES}.values():
        note(maker, asked, monkeypatch)
    replan(graph, CORES, "cache", tuning, Joint()).recall()
    times = Counter((name, id(workload), tuple(sorted(layouts.items()))) for name, workload, layouts in asked)
    assert set(times.values()) == {1}
    of_other_operators = {"pool", "dense", "matmul", "concat", "softmax", "conv2d_bf16"}
    assert not of_other_operators & {name for name, *_ in asked}


def note(
    maker: KernelTemplate, asked: list[tuple[str, Graph, Mapping[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Have a template note what it is asked to accept."""
    accepts = maker.accepts

    def noting(workload: Graph, layouts: Mapping[str, str], device: Device) -> bool:
        asked.append((maker.name, workload, dict(layouts)))
        return accepts(workload, layouts, device)

    monkeypatch.setattr(maker, "accepts", noting)


def test_only_what_was_ever_measured_is_recalled() -> None:
    graph, runner = residual_net(), FakeRunner(seconds)
    tuning, _ = tuned(runner, graph)
    before = len(tuning.questions)
    replanning = replan(graph, CORES, "cache", tuning, Joint())
    replanning.recall()
    assert len(tuning.questions) == before


def test_blocks_that_fail_are_left_alone() -> None:
    def failing(candidate: Candidate) -> float | FailureKind:
        ops = [layer["op"] for layer in candidate.workload["layers"]]
        return FailureKind.CRASH if ops == ["Add", "Relu"] else seconds(candidate)

    graph, runner = residual_net(), FakeRunner(failing)
    tuning, _ = tuned(runner, graph)
    replanning = replan(graph, CORES, "cache", tuning, Joint())
    run(replanning, runner)
    choice = replanning.choice()
    assert choice is not None
    plan, _ = replanning.plan(choice)
    assert all(set(block.layers) != {"d", "e"} for block in plan.blocks)


def test_what_the_greedy_plan_asks_is_asked_by_the_space_in_the_same_words() -> None:
    graph = residual_net()
    tuning = Tuning([], DEVICE, MemoryStore())
    space = replan(graph, CORES, "cache", tuning, Joint()).space
    plan = greedy(graph, DEVICE, 4)
    asked = questions(plan, graph, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    for layers, question in asked.items():
        offered = [space.blocks[b].question for b in space.block_of[frozenset(layers)]]
        assert any(space.layouts(q) == question.layouts for q in offered)
