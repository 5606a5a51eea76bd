"""merge-reshapes: operators that only rename dimensions, and Softmax caught between two of them."""

from __future__ import annotations

import numpy as np

from tuner.graph.work import Node, Work

_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def merge_reshapes(work: Work) -> None:
    """A chain becomes one Reshape from its start; see also _free_softmax."""
    producers = work.producers()
    for node in work.nodes:
        if not _is_reshape(node):
            continue
        source = node.inputs[0]
        while (maker := producers.get(source)) is not None and _is_reshape(maker):
            source = maker.inputs[0]
        if source == node.inputs[0]:
            continue
        shape = np.array(work.types[node.outputs[0]].shape, dtype=np.int64)
        if not shape.all():
            continue  # 0 means "copy" in Reshape
        node.op, node.attrs = "Reshape", {}
        node.inputs = [source, work.add_constant(f"{node.outputs[0]}_shape", shape)]
    _drop_unread(work)
    _free_softmax(work)


def _is_reshape(node: Node) -> bool:
    return node.op in _RESHAPES and not node.domain


def _drop_unread(work: Work) -> None:
    """Reshapes that merging left without a reader, back to front."""
    uses = work.uses()
    kept = []
    for node in reversed(work.nodes):
        if _is_reshape(node) and not uses[node.outputs[0]]:
            uses.subtract(name for name in node.inputs if name)
        else:
            kept.append(node)
    work.nodes = kept[::-1]


def _free_softmax(work: Work) -> None:
    """Reshape(Softmax(Reshape(x))) = Softmax(x) when the softmax runs over exactly one axis of x.

    The opset upgrade leaves this behind, because Softmax flattened its input before opset 13.
    """
    producers, uses = work.producers(), work.uses()
    changed = False
    for node in work.nodes:
        softmax = producers.get(node.inputs[0]) if _is_reshape(node) else None
        if softmax is None or softmax.op not in ("Softmax", "LogSoftmax") or softmax.domain or work.opset < 13:
            continue
        before = producers.get(softmax.inputs[0])
        if before is None or not _is_reshape(before) or uses[softmax.outputs[0]] != 1:
            continue
        source, inner = work.type_of(before.inputs[0]).shape, work.type_of(softmax.inputs[0]).shape
        axis = softmax.attr("axis", -1)
        if source != work.types[node.outputs[0]].shape or axis not in (-1, len(inner) - 1):
            continue
        wide = [i for i, d in enumerate(source) if d != 1]
        if not wide or source[wide[-1]] != inner[-1] or any(d == 0 for d in source):
            continue
        node.op, node.attrs, node.inputs = softmax.op, {"axis": wide[-1]}, [before.inputs[0]]
        changed = True
    if changed:
        _drop_orphans(work)


def _drop_orphans(work: Work) -> None:
    uses = work.uses()
    kept = []
    for node in reversed(work.nodes):
        if (node.op in ("Softmax", "LogSoftmax") or _is_reshape(node)) and not uses[node.outputs[0]]:
            uses.subtract(name for name in node.inputs if name)
        else:
            kept.append(node)
    work.nodes = kept[::-1]
