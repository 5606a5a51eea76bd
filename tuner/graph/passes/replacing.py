"""What passes need that put several nodes where one was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tuner.graph.ir import AttrValue
from tuner.graph.work import Node, Work


def replace(work: Work, stand_in: Callable[[Work, Node], Sequence[Node]]) -> None:
    """Put ``stand_in``'s nodes where each node is; where it gives none, the node stays."""
    work.nodes = [new for node in work.nodes for new in (stand_in(work, node) or [node])]


class Chain:
    """Nodes one behind the other, from a tensor on, in the place and with the label of ``node``."""

    def __init__(self, work: Work, node: Node, source: str) -> None:
        self.stem = next(name for name in node.outputs if name)  # of names
        self._work, self._node, self._dtype = work, node, work.types[self.stem].dtype
        self.nodes: list[Node] = []
        self.tensor, self.shape = source, work.type_of(source).shape

    def then(self, op: str, shape: Sequence[int], *more: str | np.ndarray, **attrs: AttrValue) -> Chain:
        """``op`` goes on with the tensor made so far and ``more``, tensors or constants, and makes one of ``shape``."""
        stem = f"{self.stem}_{op.lower()}"
        names = [m if isinstance(m, str) else self._constant(f"{stem}_given", m) for m in more]
        made = self._work.new_tensor(stem, self._dtype, shape)
        self.nodes.append(Node(op, [self.tensor, *names], [made], dict(attrs), label=self._node.label))
        self.tensor, self.shape = made, tuple(shape)
        return self

    def reshaped(self, *shape: int) -> Chain:
        return self.then("Reshape", shape, np.array(shape, np.int64))

    def joined(self, shape: Sequence[int], names: Sequence[str], axis: int) -> Chain:
        """Go on from the concatenation of tensors and constants."""
        made = self._work.new_tensor(f"{self.stem}_concat", self._dtype, shape)
        self.nodes.append(Node("Concat", list(names), [made], {"axis": axis}, label=self._node.label))
        return self.at(made)

    def at(self, tensor: str) -> Chain:
        """Go on from another tensor, made so far or by others."""
        self.tensor, self.shape = tensor, self._work.type_of(tensor).shape
        return self

    def end(self, *before: Node) -> list[Node]:
        """``before`` and the chain, whose last node makes what ``node`` made."""
        self.nodes[-1].outputs = list(self._node.outputs)
        return [*before, *self.nodes]

    def _constant(self, name: str, array: np.ndarray) -> str:
        return self._work.add_constant(name, array if array.flags.c_contiguous else array.copy())
