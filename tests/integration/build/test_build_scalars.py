"""Scalars stay scalars on their way into an artifact: as constants that an imported layer reads, and as inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from build_models import build, cleaned, node, onnxruntime_outputs, rand

from tuner.build.artifact import load


def test_a_scalar_index_and_a_scalar_input_keep_their_rank(tmp_path: Path) -> None:
    graph, weights = cleaned(
        [node("Gather", ["x", "last"], "row", axis=1), node("Mul", ["row", "factor"], "y")],
        {"x": (1, 5, 8), "factor": ()},
        ["y"],
        {"last": np.asarray(4, dtype=np.int64)},
    )
    build(tmp_path / "artifact", graph, weights)
    given = {"x": rand(1, 5, 8), "factor": np.asarray(3, dtype=np.float32)}
    found = load(tmp_path / "artifact").run(given)
    np.testing.assert_allclose(found["y"], 3 * given["x"][:, 4], rtol=1e-6)
    (expected,) = onnxruntime_outputs(graph, weights, given).values()
    np.testing.assert_allclose(found["y"], expected, rtol=1e-6)
