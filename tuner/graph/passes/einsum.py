"""einsum-to-matmul: sums of products over what two operands have in common become MatMul, with Transposes around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tuner.graph.attrs import FLOATS
from tuner.graph.passes.replacing import Chain, replace
from tuner.graph.work import Node, Work


def einsum_to_matmul(work: Work) -> None:
    """Equations of two operands in which each index is in both, or in one and the result."""
    replace(work, _replaced)


@dataclass(frozen=True)
class _Equation:
    """Indices of the operands and the result; those of both are part of the result, or ``summed``."""

    left: str
    right: str
    result: str

    @staticmethod
    def of(text: str) -> _Equation | None:
        """None for an equation of another form: ellipses, diagonals, an implicit result, sums over one operand."""
        operands, arrow, result = text.replace(" ", "").partition("->")
        names = operands.split(",")
        if not arrow or len(names) != 2 or not "".join([*names, result]).isalpha():
            return None
        left, right = names
        if any(len(set(name)) < len(name) for name in (left, right, result)):
            return None
        alone = set(left) ^ set(right)
        fine = set(result) <= set(left + right) and alone <= set(result) and (set(left) & set(right)) - set(result)
        return _Equation(left, right, result) if fine else None

    @property
    def batch(self) -> str:
        return "".join(i for i in self.result if i in self.left and i in self.right)

    @property
    def summed(self) -> str:
        return "".join(i for i in self.left if i not in self.result)

    @property
    def rows(self) -> str:
        return "".join(i for i in self.result if i not in self.right)

    @property
    def columns(self) -> str:
        return "".join(i for i in self.result if i not in self.left)


def _replaced(work: Work, node: Node) -> list[Node]:
    """What stands for an Einsum; nothing where a node stays."""
    if node.op != "Einsum" or node.domain or len(node.inputs) != 2:
        return []
    found, out = _Equation.of(str(node.attr("equation"))), work.types[node.outputs[0]]
    kinds = [work.type_of(name) for name in node.inputs]
    if found is None or out.dtype not in FLOATS or any(0 in kind.shape for kind in kinds):
        return []
    extent = {i: n for kind, name in zip(kinds, (found.left, found.right), strict=True)
              for i, n in zip(name, kind.shape, strict=True)}  # fmt: skip
    if any(extent[i] != n for i, n in zip(found.left, kinds[0].shape, strict=True)):
        return []  # broadcast

    def arranged(name: str, indices: str, groups: Sequence[str]) -> Chain:
        """The operand with its indices in the order of ``groups``, each of which becomes one axis."""
        made, order = Chain(work, node, name), "".join(groups)
        if order != indices:
            made.then("Transpose", [extent[i] for i in order], perm=tuple(indices.index(i) for i in order))
        shape = [prod(extent[i] for i in group) for group in groups]
        return made if len(shape) == len(order) and all(groups) else made.reshaped(*shape)

    made = arranged(node.inputs[0], found.left, [*found.batch, found.rows, found.summed])
    right = arranged(node.inputs[1], found.right, [*found.batch, found.summed, found.columns])
    shape, order = (*made.shape[:-1], right.shape[-1]), found.batch + found.rows + found.columns
    made.then("MatMul", shape, right.tensor)
    whole = [extent[i] for i in order]
    if tuple(whole) != shape:
        made.reshaped(*whole)
    if order != found.result:
        made.then("Transpose", out.shape, perm=tuple(order.index(i) for i in found.result))
    return made.end(*right.nodes)
