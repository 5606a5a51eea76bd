"""Kernels by design spaces: what no template of ours serves, against ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

sys.path.append(str(Path(__file__).parents[2] / "integration" / "build"))
from build_models import cleaned, feeds, machine, node, onnxruntime_outputs, rand

from tuner.build.imported import import_layers
from tuner.errors import CandidateError
from tuner.graph.ir import Graph
from tuner.kernels import design
from tuner.kernels.base import Kernel, Space
from tuner.kernels.design import AGAIN, SPACE, Design, designed
from tuner.kernels.registry import foreign, serving
from tuner.kernels.spreading import default_schedule
from tuner.plan.layout import PLAIN
from tuner.plan.plan import IMPORTED
from tuner.plan.workload import Bound, workload_of
from tuner.search.fusion import greedy

DEVICE = replace(machine(), cores=4)  # "some of the cores" is a case of its own
MAKER = Design()
Case = tuple[Graph, dict[str, np.ndarray], Bound]
CASES: dict[str, tuple[Any, dict[str, Sequence[int]], dict[str, np.ndarray]]] = {
    "transposed convolution": (
        node("ConvTranspose", ["x", "w", "b"], "y", strides=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]),
        {"x": (1, 12, 7, 9)}, {"w": rand(12, 10, 4, 4), "b": rand(10, seed=1)},
    ),
    "3-D transposed convolution": (
        node("ConvTranspose", ["x", "w", "b"], "y", strides=[2, 2, 2]), {"x": (1, 6, 3, 5, 4)},
        {"w": rand(6, 10, 3, 3, 3), "b": rand(10, seed=1)},
    ),
    "convolution with computed weights": (
        node("Conv", ["x", "w"], "y", pads=[1, 1]), {"x": (2, 8, 30), "w": (24, 8, 3)}, {},
    ),
    "softmax across channels": (node("Softmax", ["x"], "y", axis=1), {"x": (2, 6, 9, 10)}, {}),
    "product of three": (
        node("Einsum", ["x", "z", "u"], "y", equation="bki,bkj,k->bij"),
        {"x": (3, 20, 16), "z": (3, 20, 24), "u": (20,)}, {},
    ),
    "logarithm of softmax": (node("LogSoftmax", ["x"], "y", axis=1), {"x": (7, 90)}, {}),
    "norm": (node("ReduceL2", ["x"], "y", axes=[2, 3], keepdims=0), {"x": (1, 20, 9, 8)}, {}),
    "3-D pooling": (
        node("MaxPool", ["x"], "y", kernel_shape=[2, 2, 2], strides=[2, 2, 2]), {"x": (1, 5, 4, 8, 6)}, {},
    ),
}  # fmt: skip


def case_of(name: str) -> Case:
    made, inputs, constants = CASES[name]
    graph, weights = cleaned([made], inputs, ["y"], constants)
    return graph, dict(weights), workload_of(graph, [graph.layers[0].id])


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


def plain(workload: Graph) -> dict[str, str]:
    return dict.fromkeys((*workload.inputs, *workload.outputs), PLAIN)


def drawn(space: Space, count: int, seed: int = 0) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed)
    return [dict(space.fold({n: v[rng.integers(len(v))] for n, v in space.knobs.items()})) for _ in range(count)]


def build(workload: Graph, knobs: dict[str, int], cores: int) -> Kernel:
    return MAKER.build(workload, plain(workload), knobs, cores, DEVICE)


def outputs(kernels: Sequence[Kernel], case: Case, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the kernels compute; their buffers begin as NaN."""
    _, weights, bound = case
    functions = {f"k{i}": k.schedule.mod["main"].with_attr("global_symbol", f"k{i}") for i, k in enumerate(kernels)}
    with tvm.target.Target(DEVICE.target()) as target:
        library = tvm.compile(tvm.IRModule(functions), target=target)
    found = []
    for i, kernel in enumerate(kernels):
        arrays = {**weights, **given}
        buffers = [tvm.runtime.tensor(np.ascontiguousarray(arrays[bound.names[a.name]])) for a in kernel.args[:-1]]
        out = tvm.runtime.tensor(np.full(kernel.args[-1].shape, np.nan, np.float32))
        library[f"k{i}"](*buffers, out)
        found.append(out.numpy())
    return found


def test_kernels_are_right_by_default_and_elsewhere(case: Case) -> None:
    graph, weights, bound = case
    workload = bound.workload
    space = MAKER.space(workload, plain(workload), DEVICE)
    chosen = [(dict(space.default), 1), (dict(space.default), 2), (dict(space.default), DEVICE.cores)]
    chosen += [(knobs, 1 + k % DEVICE.cores) for k, knobs in enumerate(drawn(space, 12))]
    made = []
    for knobs, cores in chosen:
        try:
            made.append(build(workload, knobs, cores))
        except CandidateError as refused:
            assert refused.code == "rejected" and knobs[SPACE]
    assert len(made) > 3
    given = feeds(graph)
    expected = onnxruntime_outputs(graph, weights, given)["y"]
    for got in outputs(made, case, given):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * float(np.abs(expected).max()))


def test_the_default_is_the_schedule_of_imported_layers(case: Case) -> None:
    """The same loops as imported, wherever TVM makes one kernel of the layer."""
    graph, weights, bound = case
    workload = bound.workload
    default = build(workload, dict(MAKER.space(workload, plain(workload), DEVICE).default), 2)
    spread = default_schedule(default.module["main"], 2, DEVICE)
    tvm.ir.assert_structural_equal(default.schedule.mod["main"], spread)
    imported = import_layers(graph, weights, bound, DEVICE, 2)
    if len(imported.kernels) == 1:
        (kernel,) = imported.kernels.values()
        narrowed = tvm.tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"main": kernel}))["main"]
        tvm.ir.assert_structural_equal(narrowed.body, default.schedule.mod["main"].body, map_free_vars=True)


def test_spaces_and_kernels_are_the_same_wherever_they_are_made(case: Case) -> None:
    workload = case[2].workload
    first = designed(workload, DEVICE)
    design._designed.cache_clear()
    again = designed(Graph.from_json(workload.to_json()), DEVICE)
    assert first is not None and again is not None and first is not again
    assert first.knobs.knobs == again.knobs.knobs and first.knobs.default == again.knobs.default
    for number, (one, other) in enumerate(zip(first.spaces, again.spaces, strict=True)):
        assert {n: list(p.values) for n, p in one.parameters.items()} == {
            n: list(p.values) for n, p in other.parameters.items()
        }
        knobs = dict(first.knobs.fold(dict.fromkeys(first.knobs.knobs, 1) | {SPACE: number + 1}))
        assert first.spelled(knobs) == again.spelled(knobs)
        schedules = [s.apply(f.decisions(knobs)).schedule for s, f in ((one, first), (other, again))]
        tvm.ir.assert_structural_equal(schedules[0].mod, schedules[1].mod)


def test_traces_replay_on_the_module_as_tuning_logs_have_it(case: Case) -> None:
    workload = case[2].workload
    space = MAKER.space(workload, plain(workload), DEVICE)
    for knobs in [dict(space.default), *drawn(space, 3, seed=1)]:
        try:
            kernel = build(workload, knobs, 2)
        except CandidateError:
            continue
        replayed = tvm.s_tir.Schedule(kernel.module, debug_mask="none")
        kernel.schedule.trace.apply_to_schedule(replayed, remove_postproc=False)
        tvm.ir.assert_structural_equal(replayed.mod, kernel.schedule.mod)


def test_points_that_mean_the_same_are_one(case: Case) -> None:
    workload = case[2].workload
    space = MAKER.space(workload, plain(workload), DEVICE)
    assert space.default in space and not any(space.default.values())
    for knobs in drawn(space, 200):
        assert knobs in space and dict(space.fold(knobs)) == knobs
    assert {**space.default, "more": 1} not in space
    other = next(name for name in space.knobs if name != SPACE)
    assert {**space.default, other: 1} not in space  # the default schedule decides nothing


def test_one_core_has_no_parallel_loops() -> None:
    workload = case_of("3-D transposed convolution")[2].workload
    space = MAKER.space(workload, plain(workload), DEVICE)
    for knobs in (dict(space.default), {**space.default, SPACE: 1}):
        assert "T.parallel" not in build(workload, knobs, 1).schedule.mod.script()
        assert "T.parallel" in build(workload, knobs, 2).schedule.mod.script()


def test_a_stage_that_would_be_computed_over_and_over_is_refused_unbuilt() -> None:
    workload = case_of("logarithm of softmax")[2].workload
    space = MAKER.space(workload, plain(workload), DEVICE)
    deepest = {n: len(v) - 1 if n.startswith("place") else 0 for n, v in space.knobs.items()}
    refused = 0
    for number in space.knobs[SPACE][1:]:
        try:
            build(workload, dict(space.fold(deepest | {SPACE: number})), 1)
        except CandidateError as error:
            assert error.code == "rejected" and "times what it has to" in error.message
            refused += 1
    assert refused and AGAIN > 1


def test_only_what_no_template_serves_is_designed(case: Case) -> None:
    graph, _, bound = case
    assert [b.template for b in greedy(graph, DEVICE, 2).blocks] == ["design"]
    assert foreign(bound.workload, DEVICE) == "design"
    assert not list(serving(bound.workload, plain(bound.workload), DEVICE))


@pytest.mark.parametrize(
    ("made", "inputs", "why"),
    [
        (node("CumSum", ["x", "a"], "y"), {"x": (64, 300)}, "no loops that TVM could schedule"),
        (node("Sin", ["x"], "y"), {"x": (4, 30)}, "too little to do"),
        (node("Resize", ["x", "", "more"], "y"), {"x": (1, 8, 20, 20)}, "numbers that are weights of the workload"),
        (node("ArgMax", ["x"], "y", axis=1), {"x": (64, 300)}, "whole numbers"),
    ],
)
def test_the_rest_stays_imported(
    made: Any, inputs: dict[str, Sequence[int]], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    constants = {"a": np.array(1), "more": np.array([1, 1, 1.33, 1.33], np.float32)}
    read = {name: array for name, array in constants.items() if name in made.input}
    graph, _ = cleaned([made], inputs, ["y"], read)
    assert [b.template for b in greedy(graph, DEVICE, 2).blocks] == [IMPORTED], why
    assert not capfd.readouterr().out


def test_blocked_images_simulated_devices_and_unknown_operators_are_refused() -> None:
    workload = case_of("transposed convolution")[2].workload
    assert MAKER.accepts(workload, plain(workload), DEVICE)
    assert not MAKER.accepts(workload, {**plain(workload), "t0": "NCHW16c"}, DEVICE)
    assert not MAKER.accepts(workload, plain(workload), replace(DEVICE, kind="sim"))
    strange = replace(workload, layers=tuple(replace(x, op="Strange") for x in workload.layers))
    assert not MAKER.accepts(strange, plain(strange), DEVICE)
