"""The plan space: exactly the legal blocks, and one question for equal ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from plan_graphs import DEVICE, WEIGHTS, conv, graph_of, layer, random_dag, residual
from plan_spaces import TwoLayouts, space_of

from tuner.errors import UserError
from tuner.graph.ir import Graph, Layer
from tuner.plan import chains, cones
from tuner.plan import space as space_module
from tuner.plan.chains import deepest
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.legality import why_illegal
from tuner.plan.space import crossing, plan_space
from tuner.plan.workload import workload_of


def leaving(graph: Graph, layers: Sequence[str]) -> set[str]:
    """The layers that make what is read outside the set or by the model's user."""
    readers = {n: [c.id for c in graph.layers if n in c.inputs] for x in graph.layers for n in x.outputs}
    return {
        i for i in layers for n in graph.by_id[i].outputs
        if n in graph.outputs or any(reader not in layers for reader in readers[n])
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("depth", [None, 1, 2])
def test_the_blocks_are_all_sets_that_one_tensor_leaves(seed: int, depth: int | None) -> None:
    graph, _ = random_dag(seed, 9)
    names = [x.id for x in graph.layers]
    expected = set()
    for size in range(1, len(names) + 1):
        for layers in combinations(names, size):
            heavy = sum(graph.by_id[i].op not in ELEMENTWISE for i in layers)
            if len(leaving(graph, layers)) == 1 and (depth is None or heavy <= depth):
                expected.add(layers)
    space = space_of(graph, depth)
    assert sorted(b.layers for b in space.blocks) == sorted(expected)
    assert space.complete
    for block in space.blocks:
        assert [names.index(i) for i in block.layers] == [i for i in range(len(names)) if block.mask >> i & 1]
        assert leaving(graph, block.layers) == {names[block.sink]}
        assert block.sink == max(names.index(i) for i in block.layers)
        connected_and_convex = why_illegal(graph, block.layers)
        assert connected_and_convex is None or "no template" in connected_and_convex


@pytest.mark.parametrize("seed", range(6))
def test_blocks_ask_one_question_exactly_when_their_workloads_are_equal(seed: int) -> None:
    graph, _ = random_dag(seed, 12)
    space = space_of(graph)
    hashes: dict[str, set[int]] = {}
    for block in space.blocks:
        hashes.setdefault(workload_of(graph, block.layers).workload.hash, set()).add(block.question)
    assert all(len(questions) == 1 for questions in hashes.values())
    assert len(hashes) == len(space.questions)
    assert {space.workload(q).hash for q in range(len(space.questions))} == set(hashes)
    assert space.evaluations == 3 * len(hashes)


def test_equal_layers_of_a_model_are_measured_once() -> None:
    graph = graph_of([conv("x", "a"), conv("a", "b", "v"), layer("Relu", ["b"], "c")], ["c"],
                     constants={**WEIGHTS, "v": (32, 32, 3, 3)})  # fmt: skip
    space = space_of(graph)
    question = {b.layers: b.question for b in space.blocks}
    assert question["A",] == question["B",]
    assert len(space.blocks) == 6 and len(space.questions) == 5


def test_a_constant_shared_within_a_block_is_another_question() -> None:
    shared = graph_of([conv("x", "a"), conv("a", "b")], ["b"], constants=WEIGHTS)
    both = graph_of([conv("x", "a"), conv("a", "b"), conv("b", "c", "v"), conv("c", "d", "w")], ["d"],
                    constants={**WEIGHTS, "v": (32, 32, 3, 3)})  # fmt: skip
    question = {b.layers: b.question for b in space_of(both).blocks}
    assert question["A", "B"] != question["B", "C"] == question["C", "D"]
    assert len(space_of(shared).questions) == 2


def test_what_leaves_a_layer_of_several_outputs_is_part_of_the_question() -> None:
    graph = graph_of(
        [
            layer("Split", ["x"], ["a1", "a2"], axis=1),
            layer("Split", ["x"], ["b1", "b2"], axis=1),
            layer("Add", ["a1", "a2"], "c"),
            layer("Add", ["b1", "c"], "d"),
        ],
        ["d"],
    )
    space = space_of(graph)
    question = {b.layers: b.question for b in space.blocks}
    assert question["A1",] != question["B1",]  # nobody reads b2


def test_absent_optional_outputs_and_inputs_are_no_tensor() -> None:
    graph = graph_of(
        [
            layer("Clip", ["x", "", "high"], "a"),
            layer("Relu", ["a"], "b"),
            Layer("DEAD", "Dropout", ("b",), ("c", "")),
        ],
        ["b"],
        constants={"high": ()},
    )
    assert {b.layers for b in space_of(graph).blocks} == {("A",), ("B",), ("A", "B"), ("DEAD",)}


def test_a_tensor_that_the_user_reads_ends_its_block() -> None:
    graph = graph_of([conv("x", "a"), layer("Relu", ["a"], "b")], ["a", "b"], constants=WEIGHTS)
    assert [b.layers for b in space_of(graph).blocks] == [("A",), ("B",)]


def test_both_branches_of_a_residual_have_to_be_inside() -> None:
    found = {b.layers for b in space_of(residual()).blocks}
    assert ("START", "C1") not in found
    assert ("C1", "R1", "C2", "SUM") in found
    assert ("START", "C1", "R1", "C2", "SUM") in found


def test_a_sink_of_too_many_blocks_keeps_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cones, "MOST_PER_SINK", 3)
    names = [f"t{i}" for i in range(8)]
    chain = graph_of([layer("Relu", [a], b) for a, b in zip(["x", *names], names, strict=False)], names[-1:])
    space = space_of(chain)
    assert not space.complete
    assert {len(space.blocks[b].layers) for b in space.by_sink[7]} == {1, 2, 3}


def test_a_space_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "MOST_BLOCKS", 10)
    with pytest.raises(UserError) as refused:
        space_of(residual())
    assert refused.value.code == "space-too-large"


def test_blocks_are_as_deep_as_can_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of convolutions: n blocks end in its n-th layer, with 1 to n layers."""
    names = [f"t{i}" for i in range(20)]
    chain = graph_of([conv(a, b) for a, b in zip(["x", *names], names, strict=False)], names[-1:], constants=WEIGHTS)

    def layers(depth: int) -> int:
        return sum(min(n, depth) * (min(n, depth) + 1) // 2 for n in range(1, 21))

    for depth, most in ((None, layers(20)), (16, layers(20) - 1), (8, layers(8)), (4, layers(8) - 1), (2, 0)):
        monkeypatch.setattr(chains, "MOST_LAYERS", most)
        rules = deepest(chain)
        assert rules.depth == depth
        deep = max(len(block.layers) for block in plan_space(chain, DEVICE, (1,), rules).blocks)
        assert deep == (20 if depth is None else depth)


def test_layouts_are_part_of_the_question() -> None:
    graph = graph_of([conv("x", "a"), conv("a", "b", "v"), layer("Relu", ["b"], "c")], ["c"],
                     constants={**WEIGHTS, "v": (32, 32, 3, 3)})  # fmt: skip
    space = plan_space(graph, DEVICE, (1, 2), TwoLayouts())
    asked = {(b.layers, b.writes.get(f"{b.layers[-1].lower()}")): b.question for b in space.blocks}
    assert asked[("A",), "plain"] == asked[("B",), "plain"] != asked[("A",), "NCHW8c"] == asked[("B",), "NCHW8c"]
    assert len(space.block_of[frozenset("AB")]) == 2 and len(space.block_of[frozenset("C")]) == 1
    question = asked[("B",), "NCHW8c"]
    assert space.layouts(question) == {"i0": "NCHW8c", "t0": "NCHW8c"}
    candidate = space.candidate((question, 1), {"knob": 3})
    assert (candidate.cores, candidate.layouts, candidate.knobs) == (2, {"i0": "NCHW8c", "t0": "NCHW8c"}, {"knob": 3})
    assert candidate.workload_hash == space.workload(question).hash


@pytest.mark.parametrize("seed", range(4))
def test_every_block_names_the_layout_of_what_crosses_it_once_a_space_has_several(seed: int) -> None:
    graph, _ = random_dag(seed, 8)
    space = plan_space(graph, DEVICE, (1,), TwoLayouts())
    for block in space.blocks:
        reads, writes = crossing(graph, block.layers)
        assert list(block.reads) == reads and list(block.writes) == writes
