"""A model with convolutions of 8-bit integers: its ranges, its artifact, and what quantising costs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from build_models import Weights, build, cleaned, feeds, machine, node, onnxruntime_outputs, rand

from tuner.build.artifact import load, read_manifest
from tuner.graph.ir import Graph
from tuner.graph.onnx_io import to_onnx
from tuner.measure.operands import rounding_operands
from tuner.measure.ranges import image_ranges
from tuner.measure.rounding import choose_layers
from tuner.plan import int8
from tuner.plan.layout import RANGE, derived
from tuner.plan.plan import Plan
from tuner.precision import INT8_FEATURE, QUANTISED
from tuner.search.fusion import greedy
from tuner.search.lowering import computation

needs_vnni = pytest.mark.skipif(INT8_FEATURE not in machine().features, reason="this processor has no AVX512-VNNI")


@pytest.fixture(scope="module")
def net() -> tuple[Graph, Weights]:
    """Two convolutions of one shape among others: they share a kernel, whose integers stand for other numbers."""
    nodes = [
        node("Conv", ["x", "w0", "b0"], "c0", pads=[1] * 4),
        node("Relu", ["c0"], "r0"),
        node("Conv", ["r0", "w1"], "c1", pads=[1] * 4, group=24),
        node("Conv", ["c1", "w2", "b2"], "c2"),
        node("Relu", ["c2"], "r2"),
        node("Conv", ["r2", "w3", "b3"], "c3"),
        node("Add", ["c3", "c1"], "s"),
        node("Relu", ["s"], "y"),
    ]
    weights = {
        "w0": rand(24, 8, 3, 3) / 8, "b0": rand(24, seed=1), "w1": rand(24, 1, 3, 3, seed=2) / 3,
        "w2": rand(24, 24, 1, 1, seed=3) / 5, "b2": rand(24, seed=4), "w3": rand(24, 24, 1, 1, seed=5),
        "b3": rand(24, seed=6),
    }  # fmt: skip
    return cleaned(nodes, {"x": (1, 8, 10, 10)}, ["y"], weights)


def quantised_outputs(graph: Graph, weights: Weights, ranges: Weights, given: Weights) -> np.ndarray:
    """ONNX Runtime's result for what integers stand for."""
    import onnxruntime

    layers = int8.quantised_layers(graph)
    meant = {**weights, **{x.inputs[1]: int8.quantised(weights[x.inputs[1]]) for x in layers}}
    grids = {x.inputs[0]: int8.grid(ranges[derived(x.inputs[0], RANGE)]).tolist() for x in layers}
    model = rounding_operands(to_onnx(graph, meant), {x.outputs[0]: (0,) for x in layers}, grids=grids)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    (found,) = session.run(None, dict(given))
    return np.asarray(found)


@pytest.mark.alone
def test_ranges_are_those_of_all_inputs_together(net: tuple[Graph, Weights], tmp_path: Path) -> None:
    graph, weights = net
    given = [feeds(graph, seed) for seed in range(2)]
    ranges = image_ranges(graph, weights, given, 1, tmp_path)
    images = [x.inputs[0] for x in int8.quantised_layers(graph)]
    assert ranges.keys() == {derived(name, RANGE) for name in images} and len(ranges) == 3
    both = np.concatenate([each[graph.inputs[0]] for each in given])
    assert ranges[derived(graph.inputs[0], RANGE)].tolist() == [both.min(), both.max()]
    assert all(a.dtype == np.float32 and a.shape == (2,) and a[0] < a[1] for a in ranges.values())
    relu = next(x for x in graph.layers if x.op == "Relu").outputs[0]
    later = [n for n in images if graph.producer.get(n) is not None and graph.producer[n].op == "Relu"]
    assert relu not in images and later and all(ranges[derived(n, RANGE)][0] == 0 for n in later)
    assert list(tmp_path.iterdir()) == []


@needs_vnni
def test_the_built_model_computes_with_what_integers_stand_for(net: tuple[Graph, Weights], tmp_path: Path) -> None:
    graph, weights = net
    given = feeds(graph)
    ranges = image_ranges(graph, weights, [given], 1, tmp_path)
    build(tmp_path / "built", graph, {**weights, **ranges}, plan=quantised_plan(graph))
    entries = read_manifest(tmp_path / "built")["parameters"]
    layers = int8.quantised_layers(graph)
    assert {p["name"] for p in entries if p["dtype"] == "int8"} == {x.inputs[1] for x in layers}
    assert {p["name"] for p in entries if "#" in p["name"]} == set(ranges)
    (got,) = load(tmp_path / "built").run(given).values()
    (exact,) = onnxruntime_outputs(graph, weights, given).values()
    same = quantised_outputs(graph, weights, ranges, given)
    assert np.abs(got - same).max() < 1e-5 * np.abs(same).max()
    assert 1e-3 < np.abs(got - exact).max() / np.abs(exact).max() < 5e-2


def quantised_plan(graph: Graph) -> Plan:
    plan = greedy(graph, machine(), 2, deep=False)
    return plan.map(lambda b: replace(b, template=QUANTISED.get(b.template, (b.template,))[0]))


@pytest.mark.alone
def test_what_quantising_costs_is_measured_and_kept_within_the_limit(
    net: tuple[Graph, Weights], tmp_path: Path
) -> None:
    graph, weights = net
    given = [feeds(graph, seed) for seed in range(2)]
    ranges = image_ranges(graph, weights, given, 1, tmp_path)

    free = choose_layers(graph, weights, given, 1.0, 1, tmp_path, operands=True, ranges=ranges)
    (exact,) = onnxruntime_outputs(graph, weights, given[0]).values()
    error = np.abs(quantised_outputs(graph, weights, ranges, given[0]) - exact).max() / np.abs(exact).max()
    assert 0.99 * error < free.every == free.error < 5e-2 and free.exact == frozenset()
    assert free.narrow == frozenset() and free.images == 0
    tight = choose_layers(graph, weights, given, free.every, 1, tmp_path, ranges=ranges)
    assert 0 < len(tight.kept) < 3 and tight.error <= tight.allowed < tight.every
    assert tight.exact == {computation(graph, graph.by_id[i]) for i in tight.kept}
    none = choose_layers(graph, weights, given, 1e-9, 1, tmp_path, ranges=ranges)
    assert len(none.kept) == 3 and none.error == 0.0
    assert list(tmp_path.iterdir()) == []
