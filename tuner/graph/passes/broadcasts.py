"""Passes that leave to broadcasting elementwise operators what others do in front of them."""

from __future__ import annotations

import numpy as np

from tuner.graph.passes.replacing import Chain, replace
from tuner.graph.work import Node, Work

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Where"})


def where_to_min_max(work: Work) -> None:
    """Where by a constant mask, with constants elsewhere, is between two bounds: the constant's, or infinity's.

    So attention is masked in one pass with what made its scores. Infinities and all other numbers come out as before.
    """
    replace(work, _bounded)


def _bounded(work: Work, node: Node) -> list[Node]:
    mask = work.arrays.get(node.inputs[0]) if node.op == "Where" and not node.domain else None
    if mask is None or work.types[node.outputs[0]].dtype != "float32":
        return []
    _, chosen, otherwise = node.inputs
    for source, other, keep in ((chosen, otherwise, mask), (otherwise, chosen, ~mask)):
        if source in work.arrays or other not in work.arrays:
            continue
        shape, constant = work.types[node.outputs[0]].shape, work.arrays[other]
        low, high = (np.where(keep, np.float32(end), constant).astype(np.float32) for end in (-np.inf, np.inf))
        step = np.broadcast_shapes(work.type_of(source).shape, high.shape)
        return Chain(work, node, source).then("Min", step, high).then("Max", shape, low).end()
    return []


def bypass_expand(work: Work) -> None:
    """What reads an Expand, and would broadcast to the same size without it, reads what was expanded."""
    sources = {n.outputs[0]: n.inputs[0] for n in work.nodes if n.op == "Expand" and not n.domain}
    for node in work.nodes:
        if node.op not in _BROADCASTING or node.domain:
            continue
        for place, name in enumerate(node.inputs):
            if name in sources:
                inputs = [*node.inputs[:place], sources[name], *node.inputs[place + 1 :]]
                shape = np.broadcast_shapes(*(work.type_of(n).shape for n in inputs))
                if shape == work.types[node.outputs[0]].shape:
                    node.inputs = inputs
