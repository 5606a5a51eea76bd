"""A plan written by hand with a block of two convolutions, from JSON to the loaded artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from build_models import build_and_compare, cleaned, machine, node, rand

from tuner.search.fusion import lay_out


def test_an_inverted_residual_with_its_last_two_convolutions_in_one_kernel(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w0", "b0"], "c0", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["c0", "w1", "b1"], "c1", kernel_shape=[1, 1]),
        node("Relu", ["c1"], "r1"),
        node("Conv", ["r1", "w2"], "c2", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=36),
        node("Relu", ["c2"], "r2"),
        node("Conv", ["r2", "w3"], "c3", kernel_shape=[1, 1]),
        node("Add", ["c3", "c0"], "y"),
    ]
    weights = {"w0": rand(12, 3, 3, 3, seed=1), "b0": rand(12, seed=2), "w1": rand(36, 12, 1, 1, seed=3),
               "b1": rand(36, seed=4), "w2": rand(36, 1, 3, 3, seed=5), "w3": rand(12, 36, 1, 1, seed=6)}  # fmt: skip
    constants = {name: (0.3 * w).astype(np.float32) for name, w in weights.items()}
    graph, kept = cleaned(nodes, {"x": [1, 3, 23, 21]}, ["y"], constants)
    layers = [x.id for x in graph.layers]
    plan = lay_out(graph, [tuple(layers[:1]), tuple(layers[1:3]), tuple(layers[3:])], machine(), 2)
    assert [b.template for b in plan.blocks] == ["conv2d", "conv2d", "conv_chain"]
    build_and_compare(tmp_path / "artifact", graph, kept, plan)
