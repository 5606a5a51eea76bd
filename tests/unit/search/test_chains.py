"""Blocks of two convolutions on a CPU: candidates of plans beside the greedy ones, and their numbers bounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_model.block_features import COLUMNS
from tests.unit.search.search_fakes import DEVICE, FakeRunner, MemoryStore
from tuner.build.blocks import check_blocks
from tuner.errors import UserError
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.kernels.registry import template
from tuner.plan.legality import validate
from tuner.plan.plan import Plan
from tuner.plan.space import PlanSpace, plan_space
from tuner.plan.workload import workload_of
from tuner.search.blocks import block_rows
from tuner.search.features import Features
from tuner.search.fusion import greedy, lay_out
from tuner.search.questions import answered, distinct, questions
from tuner.search.replanning import replan
from tuner.search.served import Served
from tuner.search.strategies.joint import Joint
from tuner.search.tuning import Tuning
from tuner.types import Candidate

CORES = (1, 2, 4)
BLOCKED = {"i0": "NCHW16c", "t3": "NCHW16c"}


def net(convolutions: int = 2, channels: int = 32) -> Graph:
    """1x1 and depthwise 3x3 convolutions by turns, each with a Relu behind it: c0, r0, c1, r1, ..."""
    shape = (1, channels, 28, 28)
    layers, weights, source = [], {}, "x"
    for k in range(convolutions):
        size, groups = (3, channels) if k % 2 else (1, 1)
        attrs = {"pads": (size // 2,) * 4, "strides": (1, 1), "kernel_shape": (size, size), "group": groups,
                 "dilations": (1, 1)}  # fmt: skip
        layers.append(Layer(f"c{k}", "Conv", (source, f"w{k}"), (f"t{k}",), freeze_attrs(attrs)))
        layers.append(Layer(f"r{k}", "Relu", (f"t{k}",), (f"y{k}",)))
        weights[f"w{k}"] = Constant(f"w{k}", (channels, channels // groups, size, size), digest=f"{k}")
        source = f"y{k}"
    tensors = {n: Tensor(n, shape) for n in ("x", *(o for layer in layers for o in layer.outputs))}
    return Graph(("x",), (source,), tuple(layers), tensors, weights)


def space_of(graph: Graph) -> PlanSpace:
    return plan_space(graph, DEVICE, CORES, Served(DEVICE))


def convolutions(layers: tuple[str, ...]) -> int:
    return sum(layer.startswith("c") for layer in layers)


def test_blocks_of_several_convolutions_are_candidates_and_name_their_template() -> None:
    space = space_of(net(4))
    deep = {b.layers: space.questions[b.question].template for b in space.blocks if convolutions(b.layers) > 1}
    two, three = ({layers: t for layers, t in deep.items() if convolutions(layers) == count} for count in (2, 3))
    assert {layers[:3] for layers in two} == {("c0", "r0", "c1"), ("c1", "r1", "c2"), ("c2", "r2", "c3")}
    assert set(two.values()) == {"conv_chain"}
    assert {layers[:5] for layers in three} == {("c0", "r0", "c1", "r1", "c2")}  # ends with a 1x1 convolution
    assert set(three.values()) == {"inverted_residual"}
    assert len(two) + len(three) == len(deep)


def test_their_number_grows_with_the_layers_alone() -> None:
    few, more, many = (len(space_of(net(count)).blocks) for count in (6, 12, 18))
    assert many - more == more - few


def test_greedy_keeps_every_convolution_to_itself_where_weights_are_large() -> None:
    plan = greedy(net(6, channels=512), DEVICE, 4)
    assert [convolutions(b.layers) for b in plan.blocks] == [1] * 6
    assert "conv_chain" not in {b.template for b in plan.blocks}


def inverted_residual(size: int, channels: int = 16) -> Graph:
    """An expansion, a depthwise convolution and a projection, which is added to what was expanded."""
    hidden = 6 * channels
    narrow, wide = (1, channels, size, size), (1, hidden, size, size)
    weights = {
        "w0": Constant("w0", (hidden, channels, 1, 1), digest="0"),
        "w1": Constant("w1", (hidden, 1, 3, 3), digest="1"),
        "w2": Constant("w2", (channels, hidden, 1, 1), digest="2"),
    }
    attrs = [{"kernel_shape": (1, 1)}, {"kernel_shape": (3, 3), "group": hidden, "pads": (1,) * 4},
             {"kernel_shape": (1, 1)}]  # fmt: skip
    layers = [
        Layer("c0", "Conv", ("x", "w0"), ("t0",), freeze_attrs(attrs[0])),
        Layer("r0", "Relu", ("t0",), ("y0",)),
        Layer("c1", "Conv", ("y0", "w1"), ("t1",), freeze_attrs(attrs[1])),
        Layer("r1", "Relu", ("t1",), ("y1",)),
        Layer("c2", "Conv", ("y1", "w2"), ("t2",), freeze_attrs(attrs[2])),
        Layer("add", "Add", ("t2", "x"), ("out",)),
    ]
    tensors = {n: Tensor(n, wide) for n in ("t0", "y0", "t1", "y1")} | {
        n: Tensor(n, narrow) for n in ("x", "t2", "out")
    }
    return Graph(("x",), ("out",), tuple(layers), tensors, weights)


def test_greedy_makes_one_block_of_an_inverted_residual_whose_images_are_large() -> None:
    whole = [(("c0", "r0", "c1", "r1", "c2", "add"), "inverted_residual")]
    assert [(b.layers, b.template) for b in greedy(inverted_residual(112), DEVICE, 4).blocks] == whole
    small = greedy(inverted_residual(7, channels=160), DEVICE, 4)
    assert [convolutions(b.layers) for b in small.blocks] == [1, 1, 1]
    lowered = greedy(inverted_residual(112), DEVICE, 4, deep=False)
    assert [convolutions(b.layers) for b in lowered.blocks] == [1, 1, 1]


def test_an_image_that_others_read_keeps_its_own_block() -> None:
    graph = inverted_residual(112)
    seen = replace(graph, outputs=("out", "y1"))
    assert [convolutions(b.layers) for b in greedy(seen, DEVICE, 4).blocks] == [1, 1, 1]


def seconds(candidate: Candidate) -> float:
    """Two convolutions in one kernel take as long as one."""
    ops = [layer["op"] for layer in candidate.workload["layers"]]
    return (1e-3 * ("Conv" in ops) + 1e-5 * len(ops)) / candidate.cores


@pytest.mark.parametrize(("pays", "found_deep"), [("conv_chain", [2, 2]), ("inverted_residual", [3]), ("", [])])
def test_joint_takes_them_where_they_are_measured_faster_and_not_elsewhere(pays: str, found_deep: list[int]) -> None:
    def measured(candidate: Candidate) -> float:
        slow = candidate.template in {"conv_chain", "inverted_residual"} - {pays}
        return seconds(candidate) * (4.0 if slow else 1.0)

    graph, runner = net(4), FakeRunner(measured)
    plan = greedy(graph, DEVICE, 4)
    asked = questions(plan, graph, DEVICE, cores=CORES, precision="fp32", seed=0, residency="cache")
    tuning = Tuning(distinct(asked), DEVICE, MemoryStore())
    list(tuning.run(runner, 40, None))
    replanning = replan(graph, CORES, "cache", tuning, Joint())
    list(replanning.run(runner, None, None))
    choice = replanning.choice()
    assert choice is not None
    found, answers = replanning.plan(choice)
    validate(found, graph, DEVICE.cores)
    final = answered(found, answers)
    deep = [b for b in final.blocks if convolutions(b.layers) > 1]
    assert [convolutions(b.layers) for b in deep] == found_deep
    assert {(b.template, b.knobs is None) for b in deep} == ({(pays, False)} if pays else set())
    asked_for = [c for c, _ in runner.asked if c.template == pays]
    assert {c.template_version for c in asked_for} <= ({template(pays).version} if pays else set())
    assert bool(asked_for) or not pays


def test_a_plan_given_by_hand_may_hold_them_and_no_other_template_takes_them() -> None:
    graph = net(2)
    plan = lay_out(graph, [("c0", "r0", "c1", "r1")], DEVICE, 2)
    assert [b.template for b in plan.blocks] == ["conv_chain"]
    again = Plan.from_json(plan.to_json())
    validate(again, graph, DEVICE.cores)
    check_blocks(again, graph, DEVICE)
    with pytest.raises(UserError, match="does not serve"):
        check_blocks(again.map(lambda b: replace(b, template="conv2d")), graph, DEVICE)


def test_features_of_such_a_block_hold_its_depth_and_its_halo() -> None:
    graph = net(2)
    whole, alone = (workload_of(graph, layers).workload for layers in (("c0", "r0", "c1", "r1"), ("c0", "r0")))
    rows = [
        dict(zip(COLUMNS, block_rows(w, CORES, DEVICE, template=t)[-1], strict=True))
        for w, t in ((whole, "conv_chain"), (alone, "conv2d"))
    ]
    assert (rows[0]["mac_layers"], rows[0]["windows"], rows[1]["windows"]) == (1, 1, 0)
    assert rows[0]["halo_ops"] > 0 == rows[1]["halo_ops"]
    assert rows[0]["inner_bytes"] > 0 == rows[1]["inner_bytes"]  # what stays in registers does not count
    assert rows[0]["template"] != rows[1]["template"]


def test_knobs_are_told_apart_before_anything_is_measured() -> None:
    workload = workload_of(net(2), ("c0", "r0", "c1", "r1")).workload
    space = template("conv_chain").space(workload, BLOCKED, DEVICE)
    features = Features(workload, "conv_chain", 4, DEVICE)
    expected = features.expected(space.points)
    assert np.isfinite(expected).all() and expected.std() > 0.1
    assert len({tuple(row) for row in features.rows(space.points)}) == len(space.points)
    place = space.points.index(dict(space.default))
    assert expected[place] <= np.quantile(expected, 0.25)
