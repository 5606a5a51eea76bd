"""Topological order of a graph's nodes, and the errors of graphs that have none. Child process only."""

from __future__ import annotations

from collections.abc import Collection

from onnx import GraphProto, NodeProto

from tuner.errors import UserError


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The graphs in a node's attributes (If, Loop, Scan)."""
    return [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]


def _reads(node: NodeProto) -> set[str]:
    names = {name for name in node.input if name}
    for inner in subgraphs(node):
        own = {i.name for i in inner.input} | {i.name for i in inner.initializer}
        for child in inner.node:
            names |= _reads(child) - own
            own.update(child.output)
        names |= {o.name for o in inner.output} - own
    return names


def sort(graph: GraphProto, arrays: Collection[str]) -> None:
    """Put nodes in topological order, keeping the given order where it is one already.

    ``arrays`` names the initializers. Raises UserError for cycles, and for tensors nobody or more than one writes.
    """
    given = {i.name for i in graph.input} | set(arrays)
    made: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and (name in given or made.setdefault(name, index) != index):
                raise UserError(f"Tensor '{name}' is written more than once.", code="invalid-model")
    for output in graph.output:
        if output.name not in made and output.name not in given:
            raise UserError(f"No node writes the model's output '{output.name}'.", code="invalid-model")
    waits = []
    for node in graph.node:
        reads = _reads(node) - given
        for name in sorted(reads - made.keys()):
            raise UserError(
                f"Node '{node.name or next(iter(node.output), '')}' ({node.op_type}) reads '{name}', "
                "which nothing provides.",
                code="invalid-model",
            )
        waits.append({made[name] for name in reads})
    done: set[int] = set()
    order: list[int] = []
    left = list(range(len(waits)))
    while left:
        still = []
        for index in left:
            if waits[index] <= done:
                done.add(index)
                order.append(index)
            else:
                still.append(index)
        if len(still) == len(left):
            node = graph.node[still[0]]
            raise UserError(
                f"The model's graph has a cycle through node '{node.name or next(iter(node.output), '')}' "
                f"({node.op_type}).",
                code="invalid-model",
            )
        left = still
    if order != sorted(order):
        nodes = [NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
        del graph.node[:]
        graph.node.extend(nodes)
