"""Blocks side by side in a whole model: one launch, the same numbers; and plans whose lanes cannot run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from build_models import agree, build_and_compare, cleaned, feeds, machine, node, onnxruntime_outputs, rand

from tuner.build.artifact import load
from tuner.build.blocks import check_blocks, kernels_of
from tuner.build.export import build_artifact
from tuner.build.objects import can_share
from tuner.errors import CandidateError, UserError
from tuner.graph.ir import Graph
from tuner.plan.legality import validate
from tuner.plan.plan import Block, Lane, Plan, Stage
from tuner.search.fusion import greedy

W = {"w1": rand(32, 64, 1, 1), "w2": rand(16, 64, 1, 1, seed=1), "w3": rand(32, 16, 3, 3, seed=2),
     "w4": rand(32, 64, 1, 1, seed=3), "w5": rand(32, 64, 1, 1, seed=4)}  # fmt: skip
NODES = [
    node("Conv", ["x", "w1"], "a", kernel_shape=[1, 1]),
    node("Relu", ["a"], "ar"),
    node("Conv", ["x", "w2"], "b", kernel_shape=[1, 1]),
    node("Conv", ["b", "w3"], "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    node("Conv", ["x", "w4"], "d", kernel_shape=[1, 1]),
    node("Conv", ["x", "w5"], "e", kernel_shape=[1, 1]),
    node("Concat", ["ar", "c", "d", "e"], "y", axis=1),
]
GRAPH, WEIGHTS = cleaned(NODES, {"x": [1, 64, 14, 14]}, ["y"], W, disabled=["merge-siblings"])
A, B, C, D, E, CAT = range(6)  # the greedy plan's blocks


def planned(stages: Sequence[Sequence[Sequence[tuple[int, int]]]], cores: int, graph: Graph = GRAPH) -> Plan:
    """Stages of lanes of (block, cores)."""
    plan = greedy(graph, replace(machine(), cores=cores), cores)
    blocks = list(plan.blocks)
    made = (
        Stage(tuple(Lane(tuple(replace(blocks[k], cores=c) for k, c in lane)) for lane in stage)) for stage in stages
    )
    return replace(plan, stages=tuple(made))


def test_lanes_of_one_core_make_the_same_numbers(tmp_path: Path) -> None:
    """Two equal kernels at the same time, and a lane of two kernels."""
    stages = [[[(A, 1)], [(B, 1), (C, 1)]], [[(D, 1)], [(E, 1)]], [[(CAT, 2)]]]
    build_and_compare(tmp_path / "a", GRAPH, WEIGHTS, planned(stages, 2))
    kernels = json.loads((tmp_path / "a" / "manifest.json").read_text())["kernels"]
    together = [k for k in kernels if "lanes" in k]
    assert [[len(lane) for lane in k["lanes"]] for k in together] == [[1, 2], [1, 1]]
    assert {k["template"] for k in together} == {"side-by-side"}


def test_kernels_for_several_cores_do_their_tasks_beside_others(tmp_path: Path) -> None:
    """On a device of eight cores, whatever this machine has: tasks wait for nobody, so fewer threads do as well."""
    device = replace(machine(), cores=8)
    stages = [[[(A, 4)], [(B, 2)], [(D, 1)]], [[(C, 1)], [(E, 7)]], [[(CAT, 8)]]]
    plan = planned(stages, 8)
    validate(plan, GRAPH, 8)
    check_blocks(plan, GRAPH, device)
    build_artifact(tmp_path / "a", GRAPH, WEIGHTS, plan, device, {"model": "test"})
    inputs = feeds(GRAPH)
    agree(load(tmp_path / "a").run(inputs), onnxruntime_outputs(GRAPH, WEIGHTS, inputs))


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([[[(A, 2)], [(B, 2), (C, 2)]], [[(D, 1)]], [[(E, 1)]], [[(CAT, 4)]]], "several blocks on several cores"),
        ([[[(A, 1)], [(B, 1)]], [[(C, 1)]], [[(D, 1)]], [[(E, 1), (CAT, 1)], [(E, 1)]]], "more than one block"),
        ([[[(A, 3)], [(B, 3)]], [[(C, 1)]], [[(D, 1)]], [[(E, 1)]], [[(CAT, 4)]]], "wants more cores"),
        ([[[(A, 1)], [(B, 1)], [(C, 1)]], [[(D, 1)]], [[(E, 1)]], [[(CAT, 4)]]], "before it is made"),
    ],
)
def test_lanes_that_cannot_run_are_refused(
    stages: Sequence[Sequence[Sequence[tuple[int, int]]]], words: str
) -> None:  # fmt: skip
    plan = planned(stages, 4)
    with pytest.raises(UserError, match=words):
        validate(plan, GRAPH, 4)
        check_blocks(plan, GRAPH, replace(machine(), cores=4))


def test_a_concatenation_without_a_kernel_has_no_lane() -> None:
    nodes = [*NODES[:5], node("Concat", ["ar", "c"], "j", axis=1), node("Conv", ["j", "v"], "y", kernel_shape=[1, 1])]
    weights = {n: W[n] for n in ("w1", "w2", "w3", "w4")} | {"v": rand(16, 64, 1, 1)}
    graph, _ = cleaned(nodes, {"x": [1, 64, 14, 14]}, ["y", "d"], weights, disabled=["merge-siblings"])
    blocks = {graph.by_id[b.layers[0]].outputs[0]: b for b in greedy(graph, machine(), 1).blocks}
    names = ["a", "b", "c", ("j", "d"), "y"]
    stages = tuple(Stage(tuple(Lane((blocks[n],)) for n in stage)) for stage in names)
    plan = replace(greedy(graph, machine(), 1), stages=stages)
    validate(plan, graph, 2)
    with pytest.raises(UserError, match="no kernel of ours"):
        check_blocks(plan, graph, machine())


def test_a_kernel_of_several_phases_shares_on_one_core_alone(tmp_path: Path) -> None:
    """Winograd's scheme 1 transforms the whole image on all cores before any of them multiplies."""
    device = replace(machine(), cores=4)
    stages = [[[(A, 1)]], [[(B, 1)]], [[(C, 2)], [(D, 1)]], [[(E, 1)]], [[(CAT, 4)]]]
    plan = planned(stages, 4)

    def phased(block: Block) -> Block:
        if block.layers != ("Conv_3",):
            return block
        return replace(block, template="winograd", knobs={"m": 2, "bh": 7, "bw": 7, "oc_t": 1, "reg_n": 7, "scheme": 1})

    plan = plan.map(phased)
    two = next(c for c in kernels_of(GRAPH, plan, device) if c.template == "winograd")
    assert not can_share(two, device)
    assert can_share(replace(two, cores=1), device)
    assert can_share(replace(two, knobs=dict(two.knobs) | {"scheme": 0}), device)
    with pytest.raises(CandidateError, match="several phases"):
        build_artifact(tmp_path / "a", GRAPH, WEIGHTS, plan, device, {"model": "test"})
