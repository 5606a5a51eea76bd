"""fold-scale-shift: constant Mul, Add, Sub and Div go into the layer before them, or into each other.

Each such node is y = x * s + t with constants s and t. Folding multiplies weights by s per output channel, so results
differ from the original in the last bits only (scales are computed in float64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.graph.attrs import FLOATS, numpy_dtype
from tuner.graph.work import Node, Work


@dataclass(frozen=True)
class Affine:
    """y = x * scale + shift; both float64 and broadcastable to x without enlarging it."""

    source: str
    scale: np.ndarray
    shift: np.ndarray

    def after(self, first: Affine) -> Affine:
        """This one applied to the result of ``first``."""
        return Affine(first.source, first.scale * self.scale, first.shift * self.scale + self.shift)


def fold_scale_shift(work: Work) -> None:
    """Fold into Conv, ConvTranspose, Gemm and MatMul, then merge what is left of chains."""
    _fold_into_layers(work)
    _merge_chains(work)


def affine_of(work: Work, node: Node) -> Affine | None:
    """What ``node`` does, when it is a scale or a shift by a finite constant that keeps the shape."""
    if node.op not in ("Mul", "Add", "Sub", "Div") or node.domain or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if (left in work.arrays) == (right in work.arrays):
        return None
    source, other = (right, left) if left in work.arrays else (left, right)
    kind = work.types[node.outputs[0]]
    if kind.dtype not in FLOATS or work.types[source].shape != kind.shape:
        return None
    value = work.arrays[other].astype(np.float64)
    one, zero = np.ones(()), np.zeros(())
    if node.op == "Mul":
        found = Affine(source, value, zero)
    elif node.op == "Add":
        found = Affine(source, one, value)
    elif node.op == "Sub":
        found = Affine(source, one, -value) if other == right else Affine(source, -one, value)
    elif other == right:
        with np.errstate(divide="ignore"):
            found = Affine(source, 1.0 / value, zero)
    else:
        return None
    return found if np.isfinite(found.scale).all() and np.isfinite(found.shift).all() else None


def _fold_into_layers(work: Work) -> None:
    uses, producers = work.uses(), work.producers()
    kept = []
    for node in work.nodes:
        affine = affine_of(work, node)
        maker = producers.get(affine.source) if affine is not None else None
        if affine is not None and maker is not None and uses[affine.source] == 1 and _absorb(work, maker, affine):
            maker.outputs[0] = node.outputs[0]
            producers[node.outputs[0]] = maker
        else:
            kept.append(node)
    work.nodes = kept


def _absorb(work: Work, maker: Node, affine: Affine) -> bool:
    """Let ``maker`` compute the scaled and shifted result; False when it cannot."""
    axis = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}.get(maker.op)
    if maker.domain or axis is None or maker.input(1) not in work.arrays:
        return False
    shape = work.types[maker.outputs[0]].shape
    scale, shift = _per_channel(affine.scale, shape, axis), _per_channel(affine.shift, shape, axis)
    if scale is None or shift is None:
        return False
    bias = work.arrays.get(maker.input(2)) if maker.input(2) else None
    if maker.input(2) and bias is None:
        return False
    if maker.op == "MatMul" and (shift.any() or work.arrays[maker.input(1)].ndim != 2):
        return False
    if maker.op == "Gemm" and bias is not None:
        # beta goes into the new bias, whatever shape it had: scalar, row, column or whole.
        bias = bias.astype(np.float64) * maker.attr("beta", 1.0)
    new_bias = shift if bias is None else bias * scale + shift
    if maker.op == "Gemm" and new_bias.size > max(shape[-1], 1 if bias is None else bias.size):
        return False  # a column bias would become a whole matrix
    stem = maker.inputs[1]
    weights = work.arrays[stem]
    scaled = _scale_weights(maker, weights, scale) if (scale != 1).any() else weights
    new_bias = new_bias.astype(weights.dtype)
    if weights.dtype == np.float16 and not (np.isfinite(scaled).all() and np.isfinite(new_bias).all()):
        return False  # the product overflows although the results may not
    if scaled is not weights:
        maker.inputs[1] = work.add_constant(stem, scaled)
    if maker.op != "MatMul" and (bias is not None or shift.any()):
        maker.inputs[2:] = [work.add_constant(f"{stem}_bias", new_bias)]
        if maker.op == "Gemm":
            maker.attrs.pop("beta", None)
    return True


def _per_channel(value: Any, shape: tuple[int, ...], axis: int) -> Any:
    """Array ``value`` as one number per channel; None when it varies along another axis."""
    full = (1,) * (len(shape) - value.ndim) + value.shape
    axis %= len(shape)
    if any(d != 1 for i, d in enumerate(full) if i != axis):
        return None
    return np.broadcast_to(value.reshape(full[axis]), (shape[axis],))


def _scale_weights(maker: Node, weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    dtype = weights.dtype
    wide: np.dtype[Any] = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    factor: Any = scale.astype(wide)
    if maker.op == "Conv":
        factor = factor.reshape(-1, *[1] * (weights.ndim - 1))
    elif maker.op == "ConvTranspose":  # [in, out / group, ...]; output channels are numbered group by group
        group = maker.attr("group", 1)
        rows = np.repeat(factor.reshape(group, -1), weights.shape[0] // group, axis=0)
        factor = rows.reshape(*rows.shape, *[1] * (weights.ndim - 2))
    elif maker.attr("transB", 0):
        factor = factor.reshape(-1, 1)
    scaled: np.ndarray = (weights.astype(wide, copy=False) * factor).astype(dtype, copy=False)
    return scaled


def _merge_chains(work: Work) -> None:
    """Rewrite chains of such nodes as at most one Mul and one Add, where that saves a node."""
    uses = work.uses()
    chains: dict[str, tuple[list[Node], Affine]] = {}  # by the tensor a chain ends with
    for node in work.nodes:
        affine = affine_of(work, node)
        if affine is None:
            continue
        nodes, total = [node], affine
        if affine.source in chains and uses[affine.source] == 1:
            earlier, first = chains[affine.source]
            joined = affine.after(first)
            largest = max(first.scale.size, first.shift.size, affine.scale.size, affine.shift.size)
            if max(joined.scale.size, joined.shift.size) <= largest:
                del chains[affine.source]
                nodes, total = [*earlier, node], joined
        chains[node.outputs[0]] = (nodes, total)
    replaced: dict[int, list[Node]] = {}
    for nodes, total in chains.values():
        steps = int((total.scale != 1).any()) + int((total.shift != 0).any())
        if steps < len(nodes) and (steps or len(nodes) > 1 or nodes[-1].outputs[0] not in work.outputs):
            replaced |= {id(node): [] for node in nodes} | {id(nodes[-1]): _rewrite(work, nodes[-1], total)}
    work.nodes = [new for node in work.nodes for new in replaced.get(id(node), [node])]
    work.bypass({id(n): n.inputs[0] for n in work.nodes if n.op == "Identity" and n.label == _UNIT})


_UNIT = "multiply by 1, add 0"


def _rewrite(work: Work, last: Node, total: Affine) -> list[Node]:
    out = last.outputs[0]
    kind = work.types[out]
    dtype = numpy_dtype(kind.dtype)
    scaled, shifted = bool((total.scale != 1).any()), bool((total.shift != 0).any())
    if not scaled and not shifted:
        return [Node("Identity", [total.source], [out], label=_UNIT)]
    nodes, source = [], total.source
    if scaled:
        middle = work.new_tensor(f"{out}_scaled", kind.dtype, kind.shape) if shifted else out
        nodes.append(Node("Mul", [source, work.add_constant(f"{out}_scale", total.scale.astype(dtype))], [middle]))
        source = middle
    if shifted:
        nodes.append(Node("Add", [source, work.add_constant(f"{out}_shift", total.shift.astype(dtype))], [out]))
    return nodes
