"""fold-constants: operators whose inputs are all constant are computed once, within the size limits."""

from __future__ import annotations

from tuner.graph.infer import evaluate, foldable
from tuner.graph.work import Node, Work


def fold_constants(work: Work) -> None:
    """Replace nodes by their values. A node that writes a graph output stays, as Identity of its value."""
    kept = []
    total = sum(array.nbytes for array in work.arrays.values())
    for node in work.nodes:
        outputs = [name for name in node.outputs if name]
        if not foldable(work, node) or (node.op == "Identity" and node.inputs[0] in work.arrays):
            if node.op == "Identity" and node.outputs[0] not in work.outputs:
                work.arrays[node.outputs[0]] = work.arrays[node.inputs[0]]
            else:
                kept.append(node)
            continue
        if all(name in work.known for name in outputs):
            values = [work.known[name] for name in outputs]
        elif all(name in work.arrays for name in node.inputs if name):
            for name in outputs:  # types were checked one by one; together they may still be too much
                total += work.types[name].bytes
                work.sizes.check_constants(total, name)
            values = evaluate(work, node)
        else:
            kept.append(node)
            continue
        for name, value in zip(outputs, values, strict=True):
            if name in work.outputs:
                # A graph output must be written by a layer.
                kept.append(Node("Identity", [work.add_constant(name, value)], [name]))
            else:
                work.arrays[name] = value
    work.nodes = kept
    for name in work.arrays:
        work.types.pop(name, None)
        work.known.pop(name, None)
