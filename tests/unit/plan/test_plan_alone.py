"""Signatures: equal for layers that do the same, and enough to work out what a layer does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan_graphs import random_dag, residual

from tuner.graph.costs import layer_cost
from tuner.plan.alone import alone, signature


def test_names_do_not_matter_but_shapes_and_attributes_do() -> None:
    graph = residual()
    c1, c2, relu = graph.by_id["C1"], graph.by_id["C2"], graph.by_id["R1"]
    assert signature(graph, c1) == signature(graph, c2) != signature(graph, relu)
    assert signature(graph, replace(c1, attrs=())) != signature(graph, c1)


@pytest.mark.parametrize("seed", range(5))
def test_a_layer_alone_costs_what_it_does_in_its_graph(seed: int) -> None:
    graph, _ = random_dag(seed)
    for layer in graph.layers:
        own = alone(signature(graph, layer))
        apart, within = layer_cost(own, own.layers[0]), layer_cost(graph, layer)
        assert (apart.ops, apart.channels, apart.bytes_written) == (within.ops, within.channels, within.bytes_written)


def test_an_absent_input_stays_absent() -> None:
    graph = residual()
    layer = replace(graph.by_id["R1"], op="Clip", inputs=("c1", "", "w"))
    own = alone(signature(graph, layer))
    assert own.layers[0].inputs == ("i0", "", "i2") and list(own.constants) == ["i2"]
