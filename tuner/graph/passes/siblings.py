"""merge-siblings: convolutions that read the same tensor in the same way become one wider convolution.

Weights are put one behind the other along the output channels; the results are Slices of the wider result, which cost
nothing where they lie whole in memory (``tuner.plan.slices``). Each begins at a multiple of BLOCK channels: a sibling
that does not fill its last block is filled up with channels of zeros, as far as MOST_FILLING allows.

``_worth_it`` says where that is tried; ``python -m bench.siblings`` measures what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import prod
from typing import Any

import numpy as np

from tuner.graph.ir import freeze_attrs
from tuner.graph.work import Node, Work
from tuner.plan.elementwise import ELEMENTWISE

BLOCK = 16  # channels; the widest vector of float32, and a multiple of the narrower ones
MOST_FILLING = 1 / 8  # share of a merged convolution's channels that may be zeros
MOST_PIXELS = 400  # of an image; what larger ones save by being read once is lost in the spread between measurements
_UNARY = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Clip", "Mish"})


@dataclass(frozen=True)
class _Sibling:
    """A convolution, and the activation behind it if there is one; ``index`` is its place in the running order."""

    index: int
    conv: Node
    activation: Node | None
    channels: int

    @property
    def out(self) -> str:
        return (self.activation or self.conv).outputs[0]

    @property
    def filled(self) -> int:
        """Channels up to the end of the last block."""
        return -(-self.channels // BLOCK) * BLOCK


def merge_siblings(work: Work) -> None:
    """Merge what pays to merge; images in batches, convolutions in groups and other types stay as they are."""
    if work.opset < 10:  # before that the bounds of a Slice are attributes
        return
    readers: dict[str, list[Node]] = {}
    for node in work.nodes:
        for name in dict.fromkeys(node.inputs):
            readers.setdefault(name, []).append(node)
    groups: dict[Any, list[_Sibling]] = {}
    for index, node in enumerate(work.nodes):
        sibling = _sibling(work, readers, index, node)
        if sibling is not None:
            groups.setdefault(_key(work, sibling), []).append(sibling)
    replaced: dict[int, list[Node]] = {}  # by id(): what stands in a node's place
    for group in groups.values():
        order = _ordered(group, readers)
        if _worth_it(work, order):
            gone = [n for s in order for n in (s.conv, s.activation) if n is not None]
            first = min(order, key=lambda s: s.index).conv
            replaced |= {id(node): [] for node in gone} | {id(first): _merged(work, order)}
    work.nodes = [new for node in work.nodes for new in replaced.get(id(node), [node])]


def _sibling(work: Work, readers: dict[str, list[Node]], index: int, node: Node) -> _Sibling | None:
    """The node as one that may be merged: an image's convolution whose elementwise layers can be shared."""
    if node.op != "Conv" or node.domain or node.attr("group", 1) != 1 or node.inputs[0] in work.arrays:
        return None
    if not all(name in work.arrays for name in node.inputs[1:] if name):
        return None
    kind, source = work.types[node.outputs[0]], work.type_of(node.inputs[0])
    if kind.dtype != "float32" or len(kind.shape) != 4 or source.shape[0] != 1:
        return None
    activation = None
    behind = readers.get(node.outputs[0], [])
    if len(behind) == 1 and behind[0].op in _UNARY and node.outputs[0] not in work.outputs:
        (activation,) = behind
        if activation.domain or any(n and n not in work.arrays for n in activation.inputs[1:]):
            return None
    found = _Sibling(index, node, activation, kind.shape[1])
    others = readers.get(found.out, [])
    # A layer that would be fused behind the convolution cannot be fused behind a Slice; and nothing is merged twice.
    if found.out in work.outputs or not others or any(r.op in ELEMENTWISE or r.op == "Slice" for r in others):
        return None
    return found


def _key(work: Work, sibling: _Sibling) -> Any:
    """Equal for convolutions that may be merged."""
    conv, after = sibling.conv, sibling.activation
    acting = None if after is None else (after.op, freeze_attrs(after.attrs), tuple(after.inputs[1:]))
    return conv.inputs[0], work.type_of(conv.inputs[1]).shape[1:], freeze_attrs(conv.attrs), acting


def _ordered(group: Sequence[_Sibling], readers: dict[str, list[Node]]) -> list[_Sibling]:
    """As they should lie: those that a concatenation begins with last, or else those that one ends with first.

    Then the wider result and the whole of the concatenation share that part's memory (``tuner.plan.joins``).
    """
    by_name = {sibling.out: sibling for sibling in group}
    cats = {id(r): r for s in group for r in readers[s.out] if r.op == "Concat" and not r.domain}
    for begins in (True, False):
        for cat in cats.values():
            names = cat.inputs if begins else cat.inputs[::-1]
            run = list(dict.fromkeys(takewhile(by_name.__contains__, names)))
            if run:
                ends = [by_name[n] for n in (run if begins else run[::-1])]
                rest = [s for s in group if s not in ends]
                return [*rest, *ends] if begins else [*ends, *rest]
    return list(group)


def _worth_it(work: Work, order: Sequence[_Sibling]) -> bool:
    """Whether to merge: several, on a small image, hardly filled up, and not too large."""
    if len(order) < 2 or prod(work.types[order[0].out].shape[2:]) > MOST_PIXELS:
        return False
    channels, total = sum(s.channels for s in order), _width(order)
    kind = work.type_of(order[0].conv.inputs[1])
    size = total * kind.bytes // kind.shape[0]
    return total - channels <= MOST_FILLING * total and size <= work.sizes.tensor


def _width(order: Sequence[_Sibling]) -> int:
    """Channels of the merged convolution: all but the last fill their blocks."""
    return sum(s.filled for s in order[:-1]) + order[-1].channels


def _merged(work: Work, order: Sequence[_Sibling]) -> list[Node]:
    """One convolution, its activation, and a Slice for each sibling."""
    stem, total = order[0], _width(order)
    weights, biases, starts, at = [], [], [], 0
    for sibling in order:
        starts.append(at)
        width = min(sibling.filled, total - at)
        array = work.arrays[sibling.conv.inputs[1]]
        bias = sibling.conv.input(2)
        numbers = work.arrays[bias] if bias else np.zeros(sibling.channels, array.dtype)
        weights.append(np.pad(array, [(0, width - sibling.channels), *[(0, 0)] * (array.ndim - 1)]))
        biases.append(np.pad(numbers, (0, width - sibling.channels)))
        at += width
    kind = work.types[stem.conv.outputs[0]]
    shape = (kind.shape[0], total, *kind.shape[2:])
    inputs = [stem.conv.inputs[0], work.add_constant(f"{stem.conv.inputs[1]}_merged", np.concatenate(weights))]
    if any(s.conv.input(2) for s in order):
        inputs.append(work.add_constant(f"{inputs[1]}_bias", np.concatenate(biases)))
    whole = work.new_tensor(f"{stem.conv.outputs[0]}_merged", kind.dtype, shape)
    nodes = [Node("Conv", inputs, [whole], dict(stem.conv.attrs), label=stem.conv.label)]
    if stem.activation is not None:
        acted = work.new_tensor(f"{stem.out}_merged", kind.dtype, shape)
        after = stem.activation
        nodes.append(Node(after.op, [whole, *after.inputs[1:]], [acted], dict(after.attrs), label=after.label))
        whole = acted
    axes = work.add_constant("channels_axis", np.array([1]))
    for sibling, start in zip(order, starts, strict=True):
        bounds = [work.add_constant(f"{sibling.out}_{end}", np.array([value]))
                  for end, value in (("start", start), ("end", start + sibling.channels))]  # fmt: skip
        nodes.append(Node("Slice", [whole, *bounds, axes], [sibling.out], label=sibling.conv.label))
    return nodes
