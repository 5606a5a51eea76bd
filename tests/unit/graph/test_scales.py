"""scales-to-sizes: Resize by scales that give whole sizes names them, and results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import check, model, node

PASS = "scales-to-sizes"


def resized(scales: list[float], **attrs: Any) -> Any:
    """The Resize that is left of one by ``scales``."""
    proto = model(
        [node("Resize", ["x", "", "s"], "y", **attrs)], {"x": [1, 3, 6, 5]}, ["y"], {"s": np.array(scales, np.float32)}
    )
    graph = check(proto, PASS)
    return graph, graph.layers[0]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 0.5, 1], [1, 1, 1.5, 3]])
def test_whole_sizes_are_named(scales: list[float], mode: str) -> None:
    graph, layer = resized(scales, mode=mode)
    assert layer.inputs[:3] == ("x", "", "") and graph.constants[layer.inputs[3]].value == graph.tensors["y"].shape


def test_others_stay() -> None:
    """6 * 1.9 is 11.4: the 11 rows there are do not say so."""
    _, layer = resized([1, 1, 1.9, 2], mode="nearest")
    assert len(layer.inputs) == 3
