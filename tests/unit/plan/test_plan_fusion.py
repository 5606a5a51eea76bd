"""Greedy fusion: what goes together, what must stay apart, and that any Graph gets a plan that is valid."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from plan_graphs import DEVICE, IMAGE, WEIGHTS, conv, graph_of, layer, random_dag, residual

from tuner.graph.ir import Constant, Graph, Layer
from tuner.kernels.registry import BY_NAME
from tuner.plan.legality import validate
from tuner.plan.plan import IMPORTED, VIEW, Plan
from tuner.plan.workload import workload_of
from tuner.search.fusion import greedy, unfused


def fused(graph: Graph) -> list[set[str]]:
    """The blocks of the greedy plan, which must be valid."""
    plan = greedy(graph, DEVICE, 2)
    validate(plan, graph, 2)
    return [set(b.layers) for b in plan.blocks]


def test_a_residual_block_becomes_two_convolutions_with_all_else_inside() -> None:
    assert fused(residual()) == [{"START"}, {"C1", "R1"}, {"C2", "SUM", "OUT"}]


def test_unfused_gives_every_layer_a_block_and_all_cores() -> None:
    graph = residual()
    plan = unfused(graph, DEVICE, 2)
    validate(plan, graph, 2)
    assert [b.layers for b in plan.blocks] == [(x.id,) for x in graph.layers]
    assert {b.cores for b in plan.blocks} == {2}


def test_swish_is_fused_behind_its_convolution() -> None:
    graph = graph_of(
        [conv("x", "c"), layer("Sigmoid", ["c"], "s"), layer("Mul", ["c", "s"], "m"), layer("Relu", ["m"], "r")],
        ["r"],
        constants=WEIGHTS,
    )
    assert fused(graph) == [{"C", "S", "M", "R"}]


def test_a_result_in_the_middle_of_a_chain_is_kept() -> None:
    graph = graph_of(
        [conv("x", "c"), layer("Relu", ["c"], "r"), layer("Tanh", ["r"], "t"), layer("Neg", ["t"], "n")],
        ["r", "n"],
        constants=WEIGHTS,
    )
    assert fused(graph) == [{"C", "R"}, {"T", "N"}]


def test_no_block_has_two_outputs() -> None:
    graph = graph_of(
        [
            conv("x", "c"),
            layer("Relu", ["c"], "r"),
            layer("Sigmoid", ["c"], "s"),
            layer("Softmax", ["s"], "out1", axis=1),
            layer("Softmax", ["r"], "out2", axis=1),
        ],
        ["out1", "out2"],
        constants=WEIGHTS,
    )
    for block in fused(graph):
        assert len(workload_of(graph, block).workload.outputs) == 1


def test_an_operand_that_depends_on_the_block_by_another_way_is_no_cycle() -> None:
    """c feeds both the sum and a second convolution whose result is the sum's other operand."""
    graph = graph_of([conv("x", "c"), conv("c", "d"), layer("Add", ["c", "d"], "sum")], ["sum"], constants=WEIGHTS)
    assert fused(graph) == [{"C"}, {"D", "SUM"}]


def test_two_blocks_never_wait_for_each_other() -> None:
    """Joining A with D and B with C would be legal one by one, and a deadlock together."""
    graph = graph_of(
        [
            conv("x", "a"),
            conv("x", "b"),
            layer("Softmax", ["a"], "sa", axis=1),
            layer("Softmax", ["b"], "sb", axis=1),
            layer("Add", ["a", "sb"], "d"),
            layer("Add", ["b", "sa"], "c"),
        ],
        ["c", "d"],
        constants=WEIGHTS,
    )
    fused(graph)


def attention(outputs: Sequence[str] = ("out",), perm: tuple[int, ...] = (0, 2, 1, 3)) -> Graph:
    """Scores of five tokens in two heads of eight, and what they mix: as exporters write it."""
    split, heads = (1, 5, 2, 8), (1, 2, 5, 8)
    return graph_of(
        [
            layer("Transpose", ["q"], "qt", perm=perm),
            layer("Transpose", ["k"], "kt", perm=(0, 2, 3, 1)),
            layer("Transpose", ["v"], "vt", perm=perm),
            layer("MatMul", ["qt", "kt"], "scores"),
            layer("Softmax", ["scores"], "share", axis=-1),
            layer("MatMul", ["share", "vt"], "mixed"),
            layer("Transpose", ["mixed"], "out", perm=perm),
        ],
        outputs,
        inputs=("q", "k", "v"),
        shapes=dict.fromkeys(("q", "k", "v", "out"), split)
        | dict.fromkeys(("qt", "vt", "mixed"), heads)
        | {"kt": (1, 2, 8, 5), "scores": (1, 2, 5, 5), "share": (1, 2, 5, 5)},
    )


def test_products_take_their_transposes_along() -> None:
    graph = attention()
    assert fused(graph) == [{"QT", "KT", "SCORES"}, {"SHARE"}, {"VT", "MIXED", "OUT"}]
    assert [b.template for b in greedy(graph, DEVICE, 2).blocks] == ["matmul", "softmax", "matmul"]


def test_a_transpose_that_somebody_else_wants_stays_by_itself() -> None:
    assert fused(attention(outputs=("out", "qt"))) == [{"QT"}, {"KT", "SCORES"}, {"SHARE"}, {"VT", "MIXED", "OUT"}]
    kept = fused(attention(outputs=("out", "mixed")))
    assert kept == [{"QT", "KT", "SCORES"}, {"SHARE"}, {"VT", "MIXED"}, {"OUT"}]


def shuffle(
    perm: tuple[int, ...] = (0, 2, 1, 3, 4), outputs: Sequence[str] = ("out",), behind: Layer | None = None
) -> Graph:
    n, c, h, w = IMAGE
    behind = behind or Layer("OUT", "Conv", ("joined", "w"), ("out",), conv("x", "y").attrs)
    graph = graph_of(
        [
            conv("x", "c"),
            layer("Reshape", ["c", "s5"], "split"),
            layer("Transpose", ["split"], "moved", perm=perm),
            layer("Reshape", ["moved", "s4"], "joined"),
            behind,
        ],
        outputs,
        shapes={"split": (n, 4, c // 4, h, w), "moved": (n, c // 4, 4, h, w)},
        constants={**WEIGHTS, "g": (32, 8, 1, 1)},
    )
    literals = {
        "s5": Constant("s5", (5,), "int64", "", (n, 4, c // 4, h, w)),
        "s4": Constant("s4", (4,), "int64", "", (n, c, h, w)),
    }
    return Graph(graph.inputs, graph.outputs, graph.layers, graph.tensors, {**graph.constants, **literals}, 17)


def test_a_channel_shuffle_is_one_block_that_stays_blocked() -> None:
    graph = shuffle()
    plan = greedy(graph, DEVICE, 2)
    validate(plan, graph, 2)
    middle = list(plan.blocks)[1]
    assert (set(middle.layers), middle.template) == ({"SPLIT", "MOVED", "JOINED"}, "channels")
    assert plan.layout("joined") == "NCHW8c"


def test_a_shuffle_goes_with_the_1x1_convolution_that_reads_it() -> None:
    pointwise = layer("Conv", ["joined", "g"], "out", kernel_shape=(1, 1), group=4)
    graph = shuffle(behind=pointwise)
    assert fused(graph) == [{"C"}, {"SPLIT", "MOVED", "JOINED", "OUT"}]
    assert list(greedy(graph, DEVICE, 2).blocks)[1].template == "conv2d_shuffle"
    apart = greedy(graph, DEVICE, 2, deep=False)
    assert [set(b.layers) for b in apart.blocks] == [{"C"}, {"SPLIT", "MOVED", "JOINED"}, {"OUT"}]
    kept = shuffle(outputs=("out", "joined"), behind=pointwise)
    assert {"SPLIT", "MOVED", "JOINED"} in fused(kept)


@pytest.mark.parametrize("graph", [shuffle(outputs=("out", "moved")), shuffle(outputs=("out", "split"))])
def test_a_shuffle_whose_insides_are_results_is_not_taken_for_one(graph: Graph) -> None:
    assert {"SPLIT", "MOVED", "JOINED"} not in fused(graph)


def test_a_model_output_is_stored_plain_where_a_template_writes_it_so() -> None:
    graph = graph_of([layer("Relu", ["x"], "a"), layer("Tanh", ["a"], "b")], ["b"])
    plan = greedy(graph, DEVICE, 2)
    assert plan.layout("b") == "plain"


def test_small_blocks_run_on_one_core_and_large_ones_on_all() -> None:
    small, large = {"x": (1, 8, 4, 4), "a": (1, 8, 4, 4)}, {"x": (1, 64, 64, 64), "a": (1, 64, 64, 64)}
    cores = [
        next(greedy(graph_of([layer("Relu", ["x"], "a")], ["a"], shapes=shapes), DEVICE, 2).blocks).cores
        for shapes in (small, large)
    ]
    assert cores == [1, 2]


def check_served(graph: Graph, plan: Plan) -> None:
    """Every block's template accepts it with the layouts the plan gives it."""
    for block in plan.blocks:
        if block.template in {VIEW, IMPORTED}:
            continue
        bound = workload_of(graph, block.layers)
        layouts = {n: block.reads.get(bound.names[n], plan.layout(bound.names[n])) for n in bound.workload.inputs}
        layouts |= {n: plan.layout(bound.names[n]) for n in bound.workload.outputs}
        assert BY_NAME[block.template].accepts(bound.workload, layouts, DEVICE), block


@pytest.mark.parametrize("seed", range(60))
def test_any_tangle_gets_a_valid_plan(seed: int) -> None:
    graph, _ = random_dag(seed, count=8 + seed % 17)
    plan = greedy(graph, DEVICE, 2)
    validate(plan, graph, 2)
    check_served(graph, plan)
    assert sorted(i for b in plan.blocks for i in b.layers) == sorted(x.id for x in graph.layers)
    validate(Plan.from_json(plan.to_json()), graph, 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1600))
def test_any_of_many_tangles_gets_a_valid_plan(seed: int) -> None:
    graph, _ = random_dag(seed, count=10 + seed % 40)
    plan = greedy(graph, DEVICE, 2)
    validate(plan, graph, 2)
    check_served(graph, plan)
