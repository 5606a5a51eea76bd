"""fold-padding: zeros around an image go into the convolution that reads them, which pads anyway."""

from __future__ import annotations

import numpy as np

from tuner.graph.work import Node, Work

_OPSET = 11  # from which the numbers are inputs


def fold_padding(work: Work) -> None:
    """Where a convolution has pads of its own, both are added up. Other readers keep the Pad."""
    producers = work.producers()
    for node in work.nodes:
        if node.op != "Conv" or node.domain or node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            continue
        maker = producers.get(node.inputs[0])
        zeros = None if maker is None else _zeros(work, maker)
        if maker is None or zeros is None or zeros[:, :2].any():
            continue
        spatial = zeros.shape[1] - 2
        own = np.array(node.attr("pads") or [0] * 2 * spatial).reshape(2, spatial)
        node.inputs = [maker.inputs[0], *node.inputs[1:]]
        node.attrs = {k: v for k, v in node.attrs.items() if k != "auto_pad"}
        node.attrs["pads"] = tuple(int(v) for v in (own + zeros[:, 2:]).ravel())


def _zeros(work: Work, node: Node) -> np.ndarray | None:
    """How many zeros a Pad puts at the beginning and the end of each axis [2, axes]; None if it does anything else."""
    if node.op != "Pad" or node.domain or work.opset < _OPSET or node.attr("mode", "constant") != "constant":
        return None
    given = [work.value(name) if name else None for name in (node.input(k) for k in (1, 2, 3))]
    pads, value, axes = given
    rank = len(work.type_of(node.inputs[0]).shape)
    if pads is None or (node.input(2) and (value is None or value.any())) or (node.input(3) and axes is None):
        return None
    where = np.arange(rank) if axes is None else axes.ravel() % rank
    found = np.zeros((2, rank), np.int64)
    found[:, where] = pads.reshape(2, -1)
    return found if rank > 2 and (found >= 0).all() else None
