"""bypass-expand: what it leaves, and that results stay."""

from __future__ import annotations

from graph_models import check, model, node, ops

X = {"x": [2, 3, 5]}


def test_what_broadcasts_anyway_reads_in_front_of_an_expand() -> None:
    nodes = [node("Expand", ["s", "to"], "e"), node("Mul", ["x", "e"], "p"), node("Add", ["e", "x"], "y")]
    proto = model(nodes, {**X, "s": [2, 1, 1]}, ["p", "y"], {"to": [2, 3, 5]})
    assert ops(check(proto, "bypass-expand", "eliminate-dead")) == {"Mul": 1, "Add": 1}


def test_an_expand_stays_where_it_makes_the_size_or_others_read_it() -> None:
    twice = [node("Expand", ["s", "to"], "e"), node("Add", ["e", "e"], "y")]
    assert ops(check(model(twice, {"s": [2, 1]}, ["y"], {"to": [2, 4]}), "bypass-expand")) == {"Expand": 1, "Add": 1}
    both = [node("Expand", ["s", "to"], "e"), node("Mul", ["x", "e"], "p"), node("Softmax", ["e"], "y", axis=-1)]
    proto = model(both, {**X, "s": [2, 1, 1]}, ["p", "y"], {"to": [2, 3, 5]})
    graph = check(proto, "bypass-expand", "eliminate-dead")
    assert next(x for x in graph.layers if x.op == "Mul").inputs == ("x", "s")
    assert ops(graph) == {"Expand": 1, "Mul": 1, "Softmax": 1}
