"""A model with weights in bfloat16: its artifact, and what rounding costs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from build_models import Weights, build, cleaned, feeds, machine, node, onnxruntime_outputs, rand

from tuner.build.artifact import load, read_manifest
from tuner.graph.ir import Graph
from tuner.measure.rounding import choose_layers
from tuner.plan.bf16 import rounded, weight_names
from tuner.plan.plan import Plan
from tuner.precision import LOWERED
from tuner.search.fusion import greedy
from tuner.search.lowering import computation


@pytest.fixture(scope="module")
def net() -> tuple[Graph, Weights]:
    nodes = [
        node("Conv", ["x", "w0", "b0"], "c0", pads=[1] * 4),
        node("Relu", ["c0"], "r0"),
        node("Conv", ["r0", "w1"], "c1", pads=[1] * 4, group=24),
        node("MaxPool", ["c1"], "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p1"], "f"),
        node("Gemm", ["f", "w2", "b2"], "g", transB=1),
        node("Softmax", ["g"], "y", axis=1),
    ]
    weights = {
        "w0": rand(24, 8, 3, 3) / 8, "b0": rand(24, seed=1), "w1": rand(24, 1, 3, 3, seed=2),
        "w2": rand(10, 600, seed=3) / 24, "b2": rand(10, seed=4),
    }  # fmt: skip
    return cleaned(nodes, {"x": (1, 8, 10, 10)}, ["y"], weights)


def lowered(graph: Graph) -> Plan:
    plan = greedy(graph, machine(), 2)
    return plan.map(lambda b: replace(b, template=LOWERED.get(b.template, b.template)))


def test_parameters_are_stored_in_16_bits_and_the_model_computes_with_rounded_weights(
    net: tuple[Graph, Weights], tmp_path: Path
) -> None:
    graph, weights = net
    build(tmp_path / "plain", graph, weights)
    build(tmp_path / "lowered", graph, weights, plan=lowered(graph))
    entries = {p["name"]: p for p in read_manifest(tmp_path / "lowered")["parameters"]}
    plain = {p["name"]: p for p in read_manifest(tmp_path / "plain")["parameters"]}
    names = weight_names(graph)
    assert len(names) == 2
    for name, entry in entries.items():
        assert entry["dtype"] == ("uint16" if name in names else "float32")
        assert plain[name]["bytes"] == entry["bytes"] * (2 if name in names else 1)
    model, given = load(tmp_path / "lowered"), feeds(graph)
    (got,) = model.run(given).values()
    meant = {**weights, **{n: rounded(weights[n]) for n in names}}
    (same,), (exact,) = (onnxruntime_outputs(graph, w, given).values() for w in (meant, weights))
    assert np.abs(got - same).max() < 1e-5 * np.abs(same).max()
    assert np.abs(got - exact).max() > 1e-4 * np.abs(exact).max()


@pytest.mark.alone
def test_what_rounding_costs_is_measured_and_kept_within_the_limit(net: tuple[Graph, Weights], tmp_path: Path) -> None:
    graph, weights = net
    given = [feeds(graph, seed) for seed in range(2)]
    free = choose_layers(graph, weights, given, 1.0, 1, tmp_path)
    assert 1e-4 < free.every == free.error < 2e-2 and free.exact == frozenset()
    tight = choose_layers(graph, weights, given, free.every, 1, tmp_path)
    assert 0 < len(tight.kept) < 2 and tight.error <= tight.allowed < tight.every
    assert tight.exact == {computation(graph, graph.by_id[i]) for i in tight.kept}
    assert max(tight.effects, key=lambda i: tight.effects[i]) in tight.kept
    none = choose_layers(graph, weights, given, 1e-9, 1, tmp_path)
    assert len(none.kept) == 2 and none.error == 0.0
    assert list(tmp_path.iterdir()) == []
