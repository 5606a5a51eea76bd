"""What passes share that take tensors of other ranks for images [N, C, H, W], for whose layers the kernels are ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tuner.graph.passes.replacing import Chain
from tuner.graph.work import Node, Work
from tuner.plan.elementwise import ELEMENTWISE

POOLS = frozenset({"MaxPool", "AveragePool"})
Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """How tensors [N, C, ...] of a rank are seen as images. Each goes on with a chain; the shape is the tensor's."""

    rank: int
    to_images: Callable[[Chain, Shape], object]
    from_images: Callable[[Chain, Shape], object]
    constant: Callable[[np.ndarray], np.ndarray | None]  # what a broadcast operand becomes; None: no such thing


class Images:
    """The tensors of a model, by name, that are images as well."""

    def __init__(self, work: Work, view: View) -> None:
        self._work, self._view = work, view
        self._names: dict[str, str] = {}

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._names

    def may_be(self, tensor: str) -> bool:
        """Whether it is of the view's rank, in float32, and not empty."""
        kind = self._work.types.get(tensor)
        return (
            kind is not None and kind.dtype == "float32" and len(kind.shape) == self._view.rank and prod(kind.shape) > 0
        )

    def begin(self, node: Node, tensor: str) -> tuple[str, list[Node]]:
        """The images of an operand, and what makes them in front of ``node``, if they are not there yet."""
        if tensor in self._names:
            return self._names[tensor], []
        made = Chain(self._work, node, tensor)
        self._view.to_images(made, made.shape)
        self._names[tensor] = made.tensor
        return made.tensor, made.nodes

    def end(self, node: Node, before: Sequence[Node], made: Chain) -> list[Node]:
        """All nodes that stand for ``node``, where ``made`` comes to the images of what it makes."""
        tensor = node.outputs[0]
        self._names[tensor] = made.tensor
        self._view.from_images(made, self._work.types[tensor].shape)
        return made.end(*before)

    def alike(self, node: Node) -> list[Node]:
        """What stands for an elementwise layer, or a concatenation of channels, on what is images already.

        Nothing where none of the operands is, or one cannot become images.
        """
        joins = node.op == "Concat" and node.attr("axis") in (1, 1 - self._view.rank)
        if not (joins or node.op in ELEMENTWISE) or not any(name in self for name in node.inputs):
            return []
        constants = {name: self._work.arrays[name] for name in node.inputs if name in self._work.arrays}
        seen = {name: self._view.constant(array) for name, array in constants.items()}
        if any(array is None or joins for array in seen.values()):
            return []
        out = self._work.types[node.outputs[0]].shape
        tensors = [name for name in node.inputs if name and name not in constants]
        if not all(self.may_be(name) and (joins or self._work.types[name].shape == out) for name in tensors):
            return []
        return self._alike(node, {name: array for name, array in seen.items() if array is not None}, joins)

    def _alike(self, node: Node, constants: dict[str, np.ndarray], joins: bool) -> list[Node]:
        before: list[Node] = []
        inputs: list[str] = []
        for name in node.inputs:
            if not name:
                inputs.append(name)
            elif name in constants:
                given = constants[name]
                same = given.shape == self._work.arrays[name].shape
                inputs.append(name if same else self._work.add_constant(f"{name}_image", given))
            else:
                images, making = self.begin(node, name)
                inputs.append(images)
                before += making
        out = node.outputs[0]
        one = next(name for name in inputs if name not in self._work.arrays and name)
        number, _, *image = self._work.type_of(one).shape
        made = self._work.new_tensor(f"{out}_images", "float32", (number, self._work.types[out].shape[1], *image))
        attrs = {**node.attrs, "axis": 1} if joins else dict(node.attrs)
        before.append(Node(node.op, inputs, [made], attrs, label=node.label))
        return self.end(node, before, Chain(self._work, node, made))
