"""eliminate-nop: operators whose output is their input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tuner.graph.work import Node, Work


def eliminate_nop(work: Work) -> None:
    """Bypass nodes that change nothing."""
    found, uses = {}, work.uses()
    for node in work.nodes:
        rule = _RULES.get(node.op)
        if node.domain or rule is None or any(uses[name] for name in node.outputs[1:]):
            continue
        if rule(work, node) and work.type_of(node.inputs[0]) == work.type_of(node.outputs[0]):
            found[id(node)] = node.inputs[0]
    work.bypass(found)


def _same_shape(work: Work, node: Node) -> bool:
    """Enough for operators that only rename dimensions: equal types are checked for every operator."""
    return True


def _dropout(work: Work, node: Node) -> bool:
    training = node.input(2)
    return not training or (training in work.arrays and not work.arrays[training].any())


def _transpose(work: Work, node: Node) -> bool:
    """Only dimensions of size 1 move, so the data stays in order."""
    shape = work.type_of(node.inputs[0]).shape
    perm = node.attr("perm", tuple(reversed(range(len(shape)))))
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def _pad(work: Work, node: Node) -> bool:
    pads = node.attr("pads") if not node.input(1) else work.arrays.get(node.input(1))
    return pads is not None and not np.any(pads)


def _slice(work: Work, node: Node) -> bool:
    """A slice of unchanged shape is whole unless a step is negative."""
    if not node.input(4):
        return True
    steps = work.arrays.get(node.input(4))
    return steps is not None and bool((steps > 0).all())


def _single(work: Work, node: Node) -> bool:
    return len(node.inputs) == 1


def _pool(work: Work, node: Node) -> bool:
    every = (*node.attr("kernel_shape", (2,)), *node.attr("strides", ()))
    return all(v == 1 for v in every) and not any(node.attr("pads", ()))


_RULES: dict[str, Callable[[Work, Node], bool]] = {
    "Identity": _same_shape, "Cast": _same_shape, "CastLike": _same_shape, "Reshape": _same_shape,
    "Flatten": _same_shape, "Squeeze": _same_shape, "Unsqueeze": _same_shape, "Expand": _same_shape,
    "Tile": _same_shape, "Dropout": _dropout, "Transpose": _transpose, "Pad": _pad, "Slice": _slice,
    "Concat": _single, "Sum": _single, "Max": _single, "Min": _single, "Mean": _single, "MaxPool": _pool,
    "AveragePool": _pool,
}  # fmt: skip
