"""The best plan of a space against all of them, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
import pytest
from plan_graphs import DEVICE, WEIGHTS, conv, graph_of, layer, random_dag, residual
from plan_spaces import TwoLayouts, space_of

from tuner.errors import InternalError
from tuner.graph.ir import Graph
from tuner.plan import partition
from tuner.plan.handover import HandOver
from tuner.plan.partition import Choice, best_partition, choice_seconds, to_plan
from tuner.plan.plan import Plan
from tuner.plan.space import PlanSpace, crossing, plan_space

BLOCKED = "NCHW8c"


def table_of(space: PlanSpace, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1.0, 2.0, (len(space.questions), len(space.cores)))


def every_partition(space: PlanSpace) -> Iterator[list[frozenset[str]]]:
    """All ways to cut the graph into legal sets, found layer by layer and not from the end."""
    legal = {frozenset(b.layers) for b in space.blocks}
    names = [x.id for x in space.graph.layers]

    def cover(rest: frozenset[str]) -> Iterator[list[frozenset[str]]]:
        if not rest:
            yield []
            return
        first = next(n for n in names if n in rest)
        for block in legal:
            if first in block and block <= rest:
                for others in cover(rest - block):
                    yield [block, *others]

    yield from cover(frozenset(names))


def least(space: PlanSpace, table: np.ndarray, conversions: Mapping[str, float]) -> float:
    """The least time of any plan: partitions, layouts and core counts all tried."""
    best = np.inf
    graph = space.graph
    for parts in every_partition(space):
        for blocks in product(*(space.block_of[p] for p in parts)):
            options = [space.blocks[b] for b in blocks]
            total = sum(table[o.question].min() for o in options)
            stored = dict.fromkeys(graph.inputs, "plain")
            wanted = {(n, "plain") for n in graph.outputs}
            for option in options:
                made = graph.layers[option.sink].outputs[0]
                stored[made] = option.writes.get(made, "plain")
                read = {n for i in option.layers for n in graph.by_id[i].inputs if n in graph.tensors}
                inner = {n for i in option.layers for n in graph.by_id[i].outputs}
                wanted |= {(n, option.reads.get(n, "plain")) for n in read - inner}
            total += sum(conversions.get(n, 0.0) for n, layout in wanted if stored[n] != layout)
            best = min(best, total)
    return best


def can_run(plan: Plan, graph: Graph) -> bool:
    """Whether every layer is run once, and everything a block reads was made before it."""
    made = set(graph.inputs)
    for block in plan.blocks:
        if not made.issuperset(crossing(graph, block.layers)[0]):
            return False
        made.update(n for i in block.layers for n in graph.by_id[i].outputs)
    return sorted(i for b in plan.blocks for i in b.layers) == sorted(graph.by_id)


@pytest.mark.parametrize("seed", range(12))
def test_the_best_plan_of_random_graphs(seed: int) -> None:
    space = space_of(random_dag(seed, 9)[0])
    table = table_of(space, seed)
    choice = best_partition(space, table)
    assert choice.exact
    assert choice.seconds == pytest.approx(least(space, table, {}))
    assert choice_seconds(space, choice, table) == pytest.approx(choice.seconds)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("cost", [0.0, 0.3, 5.0])
def test_layouts_are_chosen_with_the_cost_of_changing_them(seed: int, cost: float) -> None:
    graph = random_dag(seed, 6)[0]
    rng = np.random.default_rng(seed)
    conversions = {n: cost * rng.uniform(0.5, 1.5) for n in graph.tensors}
    space = plan_space(graph, DEVICE, (1, 2), TwoLayouts(), conversions=conversions)
    table = table_of(space, seed)
    choice = best_partition(space, table)
    assert choice.seconds == pytest.approx(least(space, table, conversions))
    assert choice_seconds(space, choice, table) == pytest.approx(choice.seconds)
    assert can_run(to_plan(space, choice), graph)


def chain(*ops: str) -> Graph:
    names = ["x", *(f"t{i}" for i in range(len(ops)))]
    layers = [
        conv(a, b) if op == "Conv" else layer(op, [a], b) for op, a, b in zip(ops, names, names[1:], strict=False)
    ]
    return graph_of(layers, names[-1:], constants=WEIGHTS)


def test_a_dear_change_of_layout_keeps_a_plain_model_plain() -> None:
    """Two convolutions with a Relu between that knows the plain layout alone."""
    graph = chain("Conv", "Relu", "Conv")
    fast = dict.fromkeys(graph.tensors, 1.0)

    def layouts(conversions: Mapping[str, float]) -> tuple[set[str], float, Mapping[str, Mapping[str, str]]]:
        space = plan_space(graph, DEVICE, (1,), TwoLayouts(), conversions=conversions)
        table = np.full((len(space.questions), 1), np.inf)
        for block in space.blocks:
            if len(block.layers) == 1:  # blocked convolutions are 2 s faster
                table[block.question] = 1.0 if BLOCKED in block.writes.values() else 3.0
        choice = best_partition(space, table)
        plan = to_plan(space, choice)
        return set(plan.layouts.values()), choice.seconds, {b.layers[0]: b.reads for b in plan.blocks}

    # x -> T0 -> T1 -> T2: four tensors, each changed once when the convolutions are blocked
    assert layouts({}) == ({BLOCKED}, 5.0, {"T0": {"x": BLOCKED}, "T1": {"t0": "plain"}, "T2": {"t1": BLOCKED}})
    assert layouts(fast | {"t2": 0.5, "t1": 0.5})[1] == pytest.approx(1 + 3 + 1 + 1 + 1 + 0.5 + 0.5)
    assert layouts(dict.fromkeys(graph.tensors, 1.5)) == (set(), 9.0, {"T0": {}, "T1": {}, "T2": {}})


def test_each_block_gets_its_own_best_core_count() -> None:
    space = space_of(chain("Conv", "Relu", "MaxPool"), depth=1)
    table = np.full((len(space.questions), 3), 9.0)
    for block in space.blocks:
        if block.layers == ("T0", "T1"):
            table[block.question] = [3.0, 1.0, 2.0]
        if block.layers == ("T2",):
            table[block.question] = [0.5, 0.7, 0.9]
    choice = best_partition(space, table)
    assert [space.blocks[b].layers for b in choice.blocks] == [("T0", "T1"), ("T2",)]
    assert (choice.cores, choice.seconds) == ((2, 1), 1.5)
    plan = to_plan(space, choice)
    assert can_run(plan, space.graph)
    assert [(b.layers, b.cores, b.template, b.knobs) for b in plan.blocks] == [
        (("T0", "T1"), 2, "simulated", None), (("T2",), 1, "simulated", None),
    ]  # fmt: skip


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_what_is_unknown_or_failed_is_in_no_plan(missing: float) -> None:
    space = space_of(residual())
    table = table_of(space)
    table[:, :2] = missing
    known = best_partition(space, table)
    assert set(known.cores) == {4}
    for block in known.blocks:
        table[space.blocks[block].question] = missing
    other = best_partition(space, table)
    assert other.seconds > known.seconds
    assert not {space.blocks[b].question for b in known.blocks} & {space.blocks[b].question for b in other.blocks}
    table[:] = missing
    with pytest.raises(InternalError) as nothing:
        best_partition(space, table)
    assert nothing.value.code == "no-plan"


def test_blocks_come_in_an_order_in_which_they_can_run() -> None:
    for seed in range(20):
        graph = random_dag(seed, 30)[0]
        space = space_of(graph, depth=3)
        assert can_run(to_plan(space, best_partition(space, table_of(space, seed))), graph)


def test_a_thousand_layers_are_no_matter() -> None:
    space = space_of(chain(*["Conv", "Relu"] * 500), depth=4)
    choice = best_partition(space, table_of(space))
    assert choice.exact and sum(len(space.blocks[b].layers) for b in choice.blocks) == 1000


def test_a_model_of_no_layers_takes_no_time() -> None:
    assert best_partition(space_of(graph_of([], ["x"])), np.zeros((0, 3))) == Choice((), (), 0.0)


def test_states_that_were_dropped_are_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = [layer("Relu", ["x"], f"a{i}") for i in range(6)] + [layer("Relu", [f"a{i}"], f"b{i}") for i in range(6)]
    graph = graph_of([*branches, layer("Concat", [f"b{i}" for i in range(6)], "out", axis=1)], ["out"])
    space = space_of(graph)
    table = table_of(space)
    best = best_partition(space, table)
    monkeypatch.setattr(partition, "WIDEST", 2)
    narrow = best_partition(space, table)
    assert best.exact and not narrow.exact
    assert best.seconds <= narrow.seconds == pytest.approx(choice_seconds(space, narrow, table))
    assert can_run(to_plan(space, narrow), graph)


def test_what_layouts_cost_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    space = plan_space(residual(), DEVICE, (1, 2), TwoLayouts(), conversions=dict.fromkeys(residual().tensors, 0.5))
    table, found = table_of(space), []
    worked_out = HandOver._past
    monkeypatch.setattr(HandOver, "_past", lambda *args: found.append(args) or worked_out(*args))
    first = best_partition(space, table)
    assert found
    found.clear()
    assert best_partition(space, table) == first
    assert not found
