"""sequences-to-images: convolutions of sequences become those of images that are one row high.

Kernels for images are ours, and serve them well. A Reshape in front and one behind cost nothing; pooling and
elementwise layers behind become those of images as well, so that Reshapes between two convolutions meet and vanish.
"""

from __future__ import annotations

from math import prod

import numpy as np

from tuner.graph.ir import AttrValue
from tuner.graph.work import Node, Work
from tuner.plan.elementwise import ELEMENTWISE

_PRODUCTS, _POOLS = frozenset({"Conv", "ConvTranspose"}), frozenset({"MaxPool", "AveragePool"})
_WINDOWED = _PRODUCTS | _POOLS
_BEFORE: dict[str, int] = {  # attributes with a number per axis: what stands there for the row
    "kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1,
}  # fmt: skip


def sequences_to_images(work: Work) -> None:
    """Sequences [N, C, L] in float32; convolutions with constant weights."""
    images: dict[str, str] = {}  # sequence -> the image [N, C, 1, L] that is the same
    nodes: list[Node] = []
    for node in work.nodes:
        if _windowed(work, node, images) or _between(work, node, images):
            nodes += _as_image(work, node, images)
        else:
            nodes.append(node)
    work.nodes = nodes


def _windowed(work: Work, node: Node, images: dict[str, str]) -> bool:
    """Whether a node slides a window over a sequence: for sums of products, or over what is an image already."""
    if node.op not in _WINDOWED or node.domain or not node.only_output() or node.inputs[0] in work.arrays:
        return False
    if node.op in _POOLS and node.inputs[0] not in images:
        return False
    if not _is_sequence(work, node.outputs[0]) or not _is_sequence(work, node.inputs[0]):
        return False
    return all(name in work.arrays for name in node.inputs[1:] if name)


def _between(work: Work, node: Node, images: dict[str, str]) -> bool:
    """Whether a node is elementwise, some of its operands being images already, and the others may become such."""
    if node.op not in ELEMENTWISE or node.domain or not node.only_output() or not _is_sequence(work, node.outputs[0]):
        return False
    given = [name for name in node.inputs if name]
    shape = work.types[node.outputs[0]].shape
    rest = [name for name in given if name not in work.arrays]
    return any(name in images for name in rest) and all(
        _is_sequence(work, name) and work.types[name].shape == shape for name in rest
    )


def _is_sequence(work: Work, name: str) -> bool:
    kind = work.types.get(name)
    return kind is not None and kind.dtype == "float32" and len(kind.shape) == 3 and prod(kind.shape) > 0


def _as_image(work: Work, node: Node, images: dict[str, str]) -> list[Node]:
    """The node on images, with a Reshape for each operand that is none yet, and one behind."""
    before: list[Node] = []
    inputs = []
    for position, name in enumerate(node.inputs):
        if name in work.arrays:
            inputs.append(_with_row(work, node, position, name))
        elif name and name not in images:
            before.append(_reshape(work, name, images))
            inputs.append(images[name])
        else:
            inputs.append(images.get(name, ""))
    out = node.outputs[0]
    n, c, length = work.types[out].shape
    images[out] = work.new_tensor(f"{out}_image", "float32", (n, c, 1, length))
    made = Node(node.op, inputs, [images[out]], _attributes(node), label=node.label)
    shape = work.add_constant(f"{out}_sequence", np.array([n, c, length]))
    return [*before, made, Node("Reshape", [images[out], shape], [out], label=node.label)]


def _reshape(work: Work, name: str, images: dict[str, str]) -> Node:
    n, c, length = work.types[name].shape
    images[name] = work.new_tensor(f"{name}_image", "float32", (n, c, 1, length))
    shape = work.add_constant(f"{name}_row", np.array([n, c, 1, length]))
    return Node("Reshape", [name, shape], [images[name]])


def _with_row(work: Work, node: Node, position: int, name: str) -> str:
    """A constant operand with an axis for the row: weights of a window, or what is broadcast along channels."""
    array = work.arrays[name]
    weights = node.op in _PRODUCTS and position == 1
    if not weights and (node.op in _WINDOWED or node.op == "BatchNormalization" or array.ndim < 2):
        return name
    return work.add_constant(f"{name}_row", np.expand_dims(array, -2))


def _attributes(node: Node) -> dict[str, AttrValue]:
    found = dict(node.attrs)
    if node.op not in _WINDOWED:
        return found
    for key, value in _BEFORE.items():
        if key in found:
            found[key] = (value, *np.atleast_1d(found[key]).tolist())
    if "pads" in found:
        begin, end = found["pads"]
        found["pads"] = (0, begin, 0, end)
    return found
