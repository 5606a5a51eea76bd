"""unroll-recurrence: LSTM, GRU and RNN become the products and elementwise layers of their steps.

What the inputs of all steps contribute is one product. A step then multiplies the state before it, and gates that: a
few small kernels, the same for every step. Long sequences stay as they are, for each step adds about a dozen layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.graph.passes.replacing import Chain, replace
from tuner.graph.work import Node, Work

MOST_STEPS = 256  # of both directions together
_OPSET = 10  # from which the bounds of a Slice are inputs
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}  # whether it goes backwards
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",),
}  # fmt: skip
_KNOWN = {name.lower(): name for name in ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")}
_PEEPHOLES = 7  # which input they are; they are not known here


def unroll_recurrence(work: Work) -> None:
    """Layers in float32 with constant weights, whose sequences are all as long as the tensor."""
    replace(work, _unrolled)


@dataclass(frozen=True)
class _Cell:
    """A direction of a layer: B sequences at a time, H numbers of state. Constants are named.

    ``recurrent`` [H, gates * H]; ``bias`` [gates * H] is added to the product with it, where there is one; ``third``
    [H, H] are a GRU's weights of the state that was reset.
    """

    made: Chain
    batch: int
    hidden: int
    gates: int
    recurrent: str
    bias: str
    third: str
    activations: Sequence[str]

    def op(self, op: str, *inputs: str) -> str:
        """An elementwise operator on states."""
        return self.made.at(inputs[0]).then(op, (self.batch, self.hidden), *inputs[1:]).tensor

    def gate(self, tensor: str, number: int) -> str:
        start, stop = (np.array([self.hidden * k]) for k in (number, number + 1))
        return self.made.at(tensor).then("Slice", (self.batch, self.hidden), start, stop, np.array([1])).tensor

    def product(self, state: str) -> str:
        """[B, gates * H] of the state before."""
        shape, bias = (self.batch, self.gates * self.hidden), [self.bias] if self.bias else []
        return self.made.at(state).then("Gemm" if bias else "MatMul", shape, self.recurrent, *bias).tensor


def _lstm(cell: _Cell, rows: str, states: Sequence[str]) -> Sequence[str]:
    """Gates: input, output, forget, new."""
    (state, memory), (squash, bend, last) = states, cell.activations
    total = cell.made.at(cell.product(state)).then("Add", (cell.batch, cell.gates * cell.hidden), rows).tensor
    i, o, f = (cell.op(squash, cell.gate(total, k)) for k in range(3))
    new = cell.op("Mul", i, cell.op(bend, cell.gate(total, 3)))
    memory = cell.op("Add", cell.op("Mul", f, memory), new)
    return cell.op("Mul", o, cell.op(last, memory)), memory


def _gru(cell: _Cell, rows: str, states: Sequence[str]) -> Sequence[str]:
    """Gates: update, reset, new; the state is reset behind its product, or in front of one more."""
    (state,), (squash, bend), product = states, cell.activations, cell.product(states[0])
    z, r = (cell.op(squash, cell.op("Add", cell.gate(product, k), cell.gate(rows, k))) for k in range(2))
    if cell.third:
        kept = cell.made.at(cell.op("Mul", r, state)).then("MatMul", (cell.batch, cell.hidden), cell.third).tensor
    else:
        kept = cell.op("Mul", r, cell.gate(product, 2))
    new = cell.op(bend, cell.op("Add", kept, cell.gate(rows, 2)))
    return (cell.op("Add", new, cell.op("Mul", z, cell.op("Sub", state, new))),)


def _rnn(cell: _Cell, rows: str, states: Sequence[str]) -> Sequence[str]:
    return (cell.op(cell.activations[0], cell.op("Add", cell.product(states[0]), rows)),)


_STEPS: Mapping[str, Callable[[_Cell, str, Sequence[str]], Sequence[str]]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def _unrolled(work: Work, node: Node) -> list[Node]:
    """What stands for a node; nothing where it stays."""
    if node.op not in _STEPS or node.domain or not _usual(work, node):
        return []
    steps, batch, width = work.type_of(node.inputs[0]).shape
    made = Chain(work, node, node.inputs[0])
    made.reshaped(steps * batch, width)
    flat, hidden, ways = made.tensor, work.arrays[node.inputs[2]].shape[2], _directions(node)
    sequences, states = [], []
    for number, backwards in enumerate(ways):
        cell, rows = _cell(work, node, made.at(flat), number, batch)
        last = [_initial(work, node, made, 5 + k, number, (batch, hidden)) for k in range(1 + (node.op == "LSTM"))]
        results = {}
        for step in reversed(range(steps)) if backwards else range(steps):
            cut = np.array([step * batch]), np.array([(step + 1) * batch]), np.array([0])
            mine = made.at(rows).then("Slice", (batch, work.types[rows].shape[1]), *cut).tensor
            last = list(_STEPS[node.op](cell, mine, last))
            results[step] = last[0]
        made.joined((steps * batch, hidden), [results[step] for step in range(steps)], axis=0)
        sequences.append(made.reshaped(steps, 1, batch, hidden).tensor)
        states.append([made.at(name).reshaped(1, batch, hidden).tensor for name in last])
    whole = made.joined((steps, len(ways), batch, hidden), sequences, axis=1).tensor
    ends = [made.joined((len(ways), batch, hidden), names, axis=0).tensor for names in zip(*states, strict=True)]
    outputs = [Node("Identity", [name], [out], label=node.label)
               for name, out in zip((whole, *ends), node.outputs, strict=False) if out]  # fmt: skip
    return [*made.nodes, *outputs]


def _usual(work: Work, node: Node) -> bool:
    """Whether a layer is of the form that is known here."""
    kind = work.types.get(node.inputs[0])
    weights = [name for name in node.inputs[1:4] if name]
    if kind is None or kind.dtype != "float32" or 0 in kind.shape or not all(name in work.arrays for name in weights):
        return False
    lengths = node.input(4)
    whole = not lengths or (lengths in work.arrays and bool((work.arrays[lengths] == kind.shape[0]).all()))
    plain = not any(
        node.attr(name) for name in ("clip", "input_forget", "layout", "activation_alpha", "activation_beta")
    )
    ways = _DIRECTIONS.get(str(node.attr("direction") or "forward"), ())
    short = 0 < kind.shape[0] * len(ways) <= MOST_STEPS
    named = [name.lower() in _KNOWN for name in node.attr("activations") or ()]
    return work.opset >= _OPSET and whole and plain and short and all(named) and not node.input(_PEEPHOLES)


def _directions(node: Node) -> tuple[bool, ...]:
    return _DIRECTIONS[str(node.attr("direction") or "forward")]


def _cell(work: Work, node: Node, made: Chain, number: int, batch: int) -> tuple[_Cell, str]:
    """A direction, and what the inputs of all its steps contribute [steps * B, gates * H], made from ``made`` on."""
    ours, recurrent = (work.arrays[name][number].T for name in node.inputs[1:3])  # [in or H, gates * H]
    hidden, wide = recurrent.shape
    biases = work.arrays[node.inputs[3]][number] if node.input(3) else np.zeros(2 * wide, np.float32)
    bias, inner, third = biases[:wide], biases[wide:], np.zeros(0)
    late = np.arange(wide) >= 2 * hidden  # a GRU's third gate
    if node.op == "GRU" and node.attr("linear_before_reset", 0):
        bias, inner = bias + np.where(late, 0, inner), np.where(late, inner, 0)
    else:
        bias, inner = bias + inner, np.zeros(0)
        if node.op == "GRU":
            recurrent, third = recurrent[:, : 2 * hidden], recurrent[:, 2 * hidden :]
    stem = f"{made.stem}_{number}"
    constants = {
        what: work.add_constant(f"{stem}_{what}", np.ascontiguousarray(array, np.float32)) if array.size else ""
        for what, array in (("recurrent", recurrent), ("bias", inner), ("third", third))
    }
    rows = made.then("Gemm", (made.shape[0], wide), ours, bias.astype(np.float32)).tensor
    usual = _ACTIVATIONS[node.op]
    given = [_KNOWN[name.lower()] for name in node.attr("activations") or ()] or usual * len(_directions(node))
    activations = given[number * len(usual) : (number + 1) * len(usual)]
    cell = _Cell(made, batch, hidden, gates=recurrent.shape[1] // hidden, activations=tuple(activations), **constants)
    return cell, rows


def _initial(work: Work, node: Node, made: Chain, place: int, number: int, shape: tuple[int, ...]) -> str:
    """The state before the first step, of a direction."""
    name = node.input(place)
    if not name:
        return work.add_constant(f"{node.op.lower()}_zeros", np.zeros(shape, np.float32))
    if name in work.arrays:
        return work.add_constant(f"{name}_{number}", work.arrays[name][number])
    cut = np.array([number]), np.array([number + 1]), np.array([0])
    return made.at(name).then("Slice", (1, *shape), *cut).reshaped(*shape).tensor
