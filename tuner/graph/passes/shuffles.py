"""sink-shuffles: channel shuffles move behind depthwise convolutions and activations, towards what mixes channels.

A shuffle is Reshape to groups of channels, Transpose, Reshape back. A depthwise convolution treats each channel by
itself, so that it may run first, its filters in the order of the channels as they lie; the shuffle then moves its
result, which is no larger, and a convolution behind it can read the channels where they lie (conv2d_shuffle).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tuner.graph.work import Node, Work
from tuner.plan.shuffle import SHUFFLE, is_shuffle

_UNARY = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Clip", "Mish"})


@dataclass(frozen=True)
class _Shuffle:
    nodes: tuple[Node, Node, Node]
    order: np.ndarray  # [C] the channel that each channel of the result was

    @property
    def result(self) -> str:
        return self.nodes[-1].outputs[0]


def sink_shuffles(work: Work) -> None:
    """Move each shuffle behind the layers that read it one after the other, as far as it may go."""
    readers: dict[str, list[Node]] = {}
    for node in work.nodes:
        for name in dict.fromkeys(node.inputs):
            readers.setdefault(name, []).append(node)
    moved: dict[int, tuple[Node, ...]] = {}  # by id(): the shuffle that now stands behind a node
    for node in work.nodes:
        shuffle = _shuffle(work, readers, node)
        passed = [] if shuffle is None else _passed(work, readers, shuffle)
        if shuffle is not None and passed:
            moved[id(passed[-1])] = shuffle.nodes
            _sink(work, shuffle, passed)
    gone = {id(node) for nodes in moved.values() for node in nodes}
    work.nodes = [
        each
        for node in work.nodes
        for each in (() if id(node) in gone else (node, *moved.get(id(node), ())))
    ]  # fmt: skip


def _shuffle(work: Work, readers: dict[str, list[Node]], node: Node) -> _Shuffle | None:
    """The shuffle of an image that begins with ``node``, whose results in between nobody else reads."""
    nodes = [node]
    for op in SHUFFLE[1:]:
        behind = readers.get(nodes[-1].outputs[0], [])
        if len(behind) != 1 or behind[0].op != op or nodes[-1].outputs[0] in work.outputs:
            return None
        nodes.append(behind[0])
    if node.op != "Reshape" or any(x.domain for x in nodes) or node.inputs[0] in work.arrays:
        return None
    first, middle, last = nodes
    image, split = work.types[first.inputs[0]].shape, work.types[first.outputs[0]].shape
    if not prod(image) or not is_shuffle(image, split, middle.attr("perm"), work.types[last.outputs[0]].shape):
        return None
    order = np.arange(image[1]).reshape(split[1:3]).T.reshape(-1)
    return _Shuffle((first, middle, last), order)


def _passed(work: Work, readers: dict[str, list[Node]], shuffle: _Shuffle) -> list[Node]:
    """The layers that a shuffle may move behind: up to the last depthwise convolution, and activations after it."""
    found: list[Node] = []
    tensor, depthwise = shuffle.result, False
    while tensor not in work.outputs and len(behind := readers.get(tensor, [])) == 1:
        (node,) = behind
        if not (_is_depthwise(work, node, tensor) or _acts(work, node)):
            break
        depthwise |= node.op == "Conv"
        found.append(node)
        tensor = node.outputs[0]
    return found if depthwise else []


def _is_depthwise(work: Work, node: Node, tensor: str) -> bool:
    """Whether a node is a convolution of an image whose channels stay apart, one for one."""
    if node.op != "Conv" or node.domain or node.inputs[0] != tensor:
        return False
    if not all(name in work.arrays for name in node.inputs[1:] if name):
        return False
    channels = work.type_of(tensor).shape[1]
    return (node.attr("group", 1), work.arrays[node.inputs[1]].shape[0]) == (channels, channels)


def _acts(work: Work, node: Node) -> bool:
    """Whether a node does the same to every number of its first input."""
    return node.op in _UNARY and not node.domain and all(not n or n in work.arrays for n in node.inputs[1:])


def _sink(work: Work, shuffle: _Shuffle, passed: list[Node]) -> None:
    """Let ``passed`` read the image as it lies, and the shuffle what they make of it."""
    first, middle, last = shuffle.nodes
    place = np.argsort(shuffle.order)  # of each channel in the shuffled image
    tensor = first.inputs[0]
    out = passed[-1].outputs[0]
    for node in passed:
        if node.op == "Conv":
            node.inputs[1:] = [
                work.add_constant(f"{name}_unshuffled", work.arrays[name][place]) if name else ""
                for name in node.inputs[1:]
            ]
        kind = work.types[node.outputs[0]]
        node.inputs[0] = tensor
        tensor = node.outputs[0] = work.new_tensor(f"{node.outputs[0]}_unshuffled", kind.dtype, kind.shape)
    kind = work.types[tensor]
    n, channels, *size = kind.shape
    groups, each = work.types[first.outputs[0]].shape[1:3]
    for node, shape in ((first, (n, groups, each, *size)), (middle, (n, each, groups, *size))):
        node.outputs[0] = work.new_tensor(node.outputs[0], kind.dtype, shape)
    first.inputs = [tensor, work.add_constant(f"{out}_split", np.array([n, groups, each, *size]))]
    middle.inputs = [first.outputs[0]]
    last.inputs = [middle.outputs[0], work.add_constant(f"{out}_joined", np.array([n, channels, *size]))]
    last.outputs = [out]
    for node in (first, last):
        node.attrs = {}
