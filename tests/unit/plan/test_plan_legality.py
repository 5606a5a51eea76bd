"""Which layers may share a block, with the reason for every refusal; and whether a plan covers its Graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan_graphs import WEIGHTS, conv, graph_of, layer, residual

from tuner.errors import UserError
from tuner.plan.legality import validate, why_illegal
from tuner.plan.plan import Block, Lane, Plan, Stage


def test_convolution_with_its_residual_and_activation_is_legal() -> None:
    assert why_illegal(residual(), ("C2", "SUM", "OUT")) is None


def test_one_layer_is_always_legal() -> None:
    graph = residual()
    assert [why_illegal(graph, (x.id,)) for x in graph.layers] == [None] * len(graph.layers)


def test_an_unknown_layer_is_named() -> None:
    assert why_illegal(residual(), ("C2", "NOPE")) == "layer 'NOPE' is not in the graph"


def test_an_empty_block() -> None:
    assert why_illegal(residual(), ()) == "a block has at least one layer"


def test_layers_that_do_not_touch() -> None:
    reason = why_illegal(residual(), ("R1", "OUT"))
    assert reason == "its layers neither feed each other nor share an input"


def test_layers_that_only_share_weights_do_not_touch() -> None:
    assert "neither feed" in str(why_illegal(residual(), ("C1", "C2")))


def test_layers_that_share_an_input_are_connected() -> None:
    graph = graph_of([layer("Relu", ["x"], "a"), layer("Sigmoid", ["x"], "b")], ["a", "b"])
    assert why_illegal(graph, ("A", "B")) is None


def test_a_path_that_leaves_and_comes_back_is_named() -> None:
    graph = graph_of(
        [
            layer("Relu", ["x"], "a"),
            layer("Softmax", ["a"], "s"),
            layer("Tanh", ["s"], "t"),
            layer("Add", ["a", "t"], "b"),
        ],
        ["b"],
    )
    assert why_illegal(graph, ("A", "B")) == "a path leaves it through 'T' and comes back"
    assert why_illegal(graph, ("A", "S", "T", "B")) is None  # the whole diamond is convex again


def test_heavy_layers_that_no_template_fuses_are_refused_by_name() -> None:
    graph = graph_of([conv("x", "a"), layer("Softmax", ["a"], "b")], ["b"], constants=WEIGHTS)
    reason = str(why_illegal(graph, ("A", "B")))
    assert "2 layers that are not elementwise (Conv, Softmax)" in reason


def test_two_convolutions_in_a_row_are_legal_and_three_are_not() -> None:
    graph = graph_of(
        [conv("x", "a"), layer("Relu", ["a"], "b"), conv("b", "c"), conv("c", "d"), layer("Add", ["d", "b"], "e")],
        ["e"],
        constants=WEIGHTS,
    )
    assert why_illegal(graph, ("A", "B", "C")) is None
    assert why_illegal(graph, ("C", "D")) is None
    assert "3 layers that are not elementwise (Conv, Conv, Conv)" in str(why_illegal(graph, ("A", "B", "C", "D")))


def test_a_product_and_transposes_are_legal_and_two_products_are_not() -> None:
    graph = graph_of(
        [
            layer("Transpose", ["x"], "t", perm=(0, 1, 3, 2)),
            layer("MatMul", ["x", "t"], "p"),
            layer("Transpose", ["p"], "u", perm=(0, 2, 1, 3)),
            layer("MatMul", ["u", "x"], "q"),
        ],
        ["q"],
    )
    assert why_illegal(graph, ("T", "P", "U")) is None
    assert "(MatMul, Transpose, MatMul)" in str(why_illegal(graph, ("P", "U", "Q")))


def test_convolutions_side_by_side_are_no_block() -> None:
    graph = graph_of([conv("x", "a"), conv("x", "b"), layer("Add", ["a", "b"], "c")], ["c"], constants=WEIGHTS)
    assert "its convolution 'B' reads no result of the others" in str(why_illegal(graph, ("A", "B")))
    assert "its convolution 'B' reads no result of the others" in str(why_illegal(graph, ("A", "B", "C")))


def test_convolution_and_pooling_are_the_exception_in_this_order_only() -> None:
    pool = {"kernel_shape": (2, 2), "strides": (2, 2)}
    forth = graph_of([conv("x", "a"), layer("MaxPool", ["a"], "b", **pool)], ["b"], constants=WEIGHTS)
    back = graph_of([layer("MaxPool", ["x"], "a", **pool), conv("a", "b")], ["b"], constants=WEIGHTS)
    assert why_illegal(forth, ("A", "B")) is None
    assert "MaxPool, Conv" in str(why_illegal(back, ("A", "B")))


def plan_of(*blocks: tuple[str, ...], cores: int = 1) -> Plan:
    graph = residual()
    return Plan.sequential(graph.hash, [Block(b, cores, "conv2d") for b in blocks], {})


def refusal(plan: Plan, cores: int = 2) -> str:
    with pytest.raises(UserError) as caught:
        validate(plan, residual(), cores)
    assert caught.value.code == "bad-plan"
    assert caught.value.message.startswith("The plan does not fit the model: ")
    return caught.value.message


GOOD = (("START",), ("C1", "R1"), ("C2", "SUM", "OUT"))


def test_a_good_plan_passes() -> None:
    validate(plan_of(*GOOD), residual(), 1)


def test_a_plan_for_another_graph() -> None:
    assert "another graph" in refusal(replace(plan_of(*GOOD), graph="0" * 64))


def test_a_missing_layer_is_named() -> None:
    assert "layer 'C2' is in no block" in refusal(plan_of(("START",), ("C1", "R1")))
    assert "layer 'OUT' is in no block" in refusal(plan_of(("START",), ("C1", "R1"), ("C2", "SUM")))


def test_a_layer_in_two_blocks() -> None:
    message = refusal(plan_of(*GOOD[:2], ("R1",), GOOD[2]))
    assert "layer 'R1' is in more than one block (stages[2].lanes[0].blocks[0])" in message


def test_a_layer_twice_in_one_block() -> None:
    assert "stages[1].lanes[0].blocks[0] names layer 'R1' twice" in refusal(
        plan_of(("START",), ("C1", "R1", "R1"), GOOD[2])
    )


def test_an_illegal_block_is_refused_with_the_reason() -> None:
    message = refusal(plan_of(("START",), ("C1", "SUM"), ("R1", "C2", "OUT")))
    assert "stages[1].lanes[0].blocks[0] is not a legal block: a path leaves it" in message


def test_a_block_before_what_it_reads() -> None:
    message = refusal(plan_of(("C1", "R1"), ("START",), GOOD[2]))
    assert "stages[0].lanes[0].blocks[0] reads 'start' before it is made" in message


def test_blocks_of_one_stage_do_not_see_each_others_results() -> None:
    graph = residual()
    lanes = (Lane((Block(("START",), 1, "t"),)), Lane((Block(("C1", "R1"), 1, "t"),)))
    plan = Plan(graph.hash, (Stage(lanes), Stage((Lane((Block(GOOD[2], 1, "t"),)),))))
    assert "stages[0].lanes[1].blocks[0] reads 'start' before it is made" in refusal(plan)


def test_more_cores_than_the_device_has() -> None:
    assert "stages[0].lanes[0].blocks[0].cores is 3, the device has 2" in refusal(plan_of(*GOOD, cores=3))


def test_lanes_together_may_not_exceed_the_device() -> None:
    graph = graph_of([layer("Relu", ["x"], "a"), layer("Tanh", ["x"], "b")], ["a", "b"])
    plan = Plan(graph.hash, (Stage((Lane((Block(("A",), 2, "t"),)), Lane((Block(("B",), 1, "t"),)))),))
    with pytest.raises(UserError, match="wants more cores than the device's 2"):
        validate(plan, graph, 2)
    validate(plan, graph, 3)


@pytest.mark.parametrize(
    ("layouts", "text"),
    [
        ({"nope": "NCHW8c"}, "'nope', which is not a tensor"),
        ({"x": "NCHW8c"}, "the model's inputs come plain"),
        ({"c1": "NHWC"}, "Unknown layout 'NHWC'"),
        ({"c1": "NCHW0c"}, "Unknown layout 'NCHW0c'"),
    ],
)
def test_layouts_are_checked(layouts: dict[str, str], text: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(replace(plan_of(*GOOD), layouts=layouts), residual(), 2)
    assert text in caught.value.message


def test_an_unknown_layout_in_reads_is_refused() -> None:
    plan = plan_of(*GOOD).map(lambda b: replace(b, reads={"start": "blocky"}))
    with pytest.raises(UserError, match="Unknown layout 'blocky'"):
        validate(plan, residual(), 2)


def test_blocked_layouts_need_four_dimensions() -> None:
    graph = graph_of([layer("Relu", ["x"], "a")], ["a"], shapes={"x": (2, 16), "a": (2, 16)})
    plan = Plan.sequential(graph.hash, [Block(("A",), 1, "t")], {"a": "NCHW8c"})
    with pytest.raises(UserError, match="does not have four dimensions"):
        validate(plan, graph, 1)
