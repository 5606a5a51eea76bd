"""sequences-to-images: convolutions of sequences become those of images that are one row high.

Kernels for images are ours, and serve them well. A Reshape in front and one behind cost nothing; pooling,
concatenations and elementwise layers behind become those of images as well, so that Reshapes between two convolutions
meet and vanish.
"""

from __future__ import annotations

import numpy as np

from tuner.graph.ir import AttrValue
from tuner.graph.passes.images import POOLS, Images, Shape, View
from tuner.graph.passes.replacing import Chain, replace
from tuner.graph.work import Node, Work

_PRODUCTS = frozenset({"Conv", "ConvTranspose"})
_POOLS = POOLS | {"GlobalMaxPool", "GlobalAveragePool"}
_BEFORE: dict[str, int] = {  # attributes with a number per axis: what stands there for the row
    "kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1,
}  # fmt: skip


def sequences_to_images(work: Work) -> None:
    """Sequences [N, C, L] in float32, seen as [N, C, 1, L]; convolutions with constant weights."""
    images = Images(work, View(3, _to_images, lambda made, shape: made.reshaped(*shape), _with_row))
    replace(work, lambda work, node: _lowered(work, node, images))


def _to_images(made: Chain, shape: Shape) -> None:
    n, c, length = shape
    made.reshaped(n, c, 1, length)


def _with_row(array: np.ndarray) -> np.ndarray:
    return array if array.ndim < 2 else np.expand_dims(array, -2)


def _lowered(work: Work, node: Node, images: Images) -> list[Node]:
    """What stands for a node; nothing where it stays."""
    if node.domain or not node.only_output() or not images.may_be(node.outputs[0]):
        return []
    if node.op not in _PRODUCTS | _POOLS:
        return images.alike(node)
    source, *rest = (name for name in node.inputs if name)
    begins = source in images or (node.op in _PRODUCTS and source not in work.arrays and images.may_be(source))
    if not begins or not all(name in work.arrays for name in rest):
        return []
    weights = [np.expand_dims(work.arrays[name], -2) for name in rest[:1]]
    n, c, length = work.types[node.outputs[0]].shape
    seen, before = images.begin(node, source)
    made = Chain(work, node, seen).then(node.op, (n, c, 1, length), *weights, *rest[1:], **_attributes(node))
    return images.end(node, before, made)


def _attributes(node: Node) -> dict[str, AttrValue]:
    found = dict(node.attrs)
    for key, value in _BEFORE.items():
        if key in found:
            found[key] = (value, *np.atleast_1d(found[key]).tolist())
    if "pads" in found:
        begin, end = found["pads"]
        found["pads"] = (0, begin, 0, end)
    return found
