"""bypass-expand: elementwise operators that broadcast anyway read what an Expand would copy for them."""

from __future__ import annotations

import numpy as np

from tuner.graph.work import Work

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Where"})


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
