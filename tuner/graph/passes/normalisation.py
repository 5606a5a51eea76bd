"""fuse-layer-norm, instance-norm-to-layer-norm: what becomes LayerNormalization.

The first recognises it as it was written before opset 17 had an operator for it.

(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + shift        means over the last axes
"""

from __future__ import annotations

from math import prod

import numpy as np

from tuner.graph.passes.affine import affine_of
from tuner.graph.passes.replacing import Chain, replace
from tuner.graph.work import Node, Work

_OPSET = 17  # the first that has the operator


def fuse_layer_norm(work: Work) -> None:
    """The subtraction, squares, means, root and division become one operator, as do a scale and a shift behind it."""
    if work.opset < _OPSET:
        return
    uses, producers = work.uses(), work.producers()
    gone: set[int] = set()
    for node in work.nodes:
        found = _core(work, node, producers)
        if found is None:
            continue
        mean, distance, inner, axis, epsilon = found
        if any(uses[n.outputs[0]] != 1 for n in inner):
            continue  # somebody else wants the variance
        gone.update(id(n) for n in inner)
        if uses[distance.outputs[0]] == 1 + inner[0].inputs.count(distance.outputs[0]):
            gone.add(id(distance))
            gone.update({id(mean)} if uses[mean.outputs[0]] == 1 else ())
        source = mean.inputs[0]
        one = work.add_constant(f"{node.outputs[0]}_scale", np.ones(work.type_of(source).shape[axis:], np.float32))
        node.op, node.inputs, node.attrs = "LayerNormalization", [source, one], {"axis": axis, "epsilon": epsilon}
    work.nodes = [node for node in work.nodes if id(node) not in gone]
    _absorb(work)


def _core(work: Work, division: Node, producers: dict[str, Node]) -> tuple[Node, Node, list[Node], int, float] | None:
    """(mean, x - mean, the nodes from the squares to the root, first axis, epsilon) of a division that ends one."""

    def maker(name: str, *ops: str) -> Node | None:
        node = producers.get(name)
        return node if node is not None and node.op in ops and not node.domain else None

    if division.op != "Div" or division.domain or work.type_of(division.outputs[0]).dtype != "float32":
        return None
    centred, root = division.inputs
    distance, sqrt = maker(centred, "Sub"), maker(root, "Sqrt")
    mean = maker(distance.inputs[1], "ReduceMean") if distance else None
    shifted = maker(sqrt.inputs[0], "Add") if sqrt else None
    if distance is None or sqrt is None or mean is None or shifted is None or mean.inputs[0] != distance.inputs[0]:
        return None
    variance = next((v for v in (maker(n, "ReduceMean") for n in shifted.inputs) if v is not None), None)
    if variance is None:
        return None
    epsilon = next((work.arrays[n] for n in shifted.inputs if n in work.arrays), None)
    square = maker(variance.inputs[0], "Pow", "Mul")
    if epsilon is None or epsilon.size != 1 or square is None or not _squares(work, square, centred):
        return None
    axis = _last_axes(work, mean)
    if axis is None or axis != _last_axes(work, variance):
        return None
    return mean, distance, [square, variance, shifted, sqrt], axis, float(epsilon.item())


def _squares(work: Work, node: Node, name: str) -> bool:
    if node.op == "Mul":
        return node.inputs == [name, name]
    power = work.arrays.get(node.inputs[1])
    return node.inputs[0] == name and power is not None and power.size == 1 and float(power.item()) == 2.0


def _last_axes(work: Work, node: Node) -> int | None:
    """The first of the axes that a ReduceMean takes, if they are the last ones and stay as ones."""
    given = work.arrays.get(node.input(1)) if node.input(1) else node.attr("axes")
    if given is None or not node.attr("keepdims", 1):
        return None
    rank = len(work.type_of(node.inputs[0]).shape)
    axes = sorted(int(a) % rank for a in np.asarray(given).reshape(-1))
    return axes[0] if axes and axes == list(range(axes[0], rank)) else None


def _absorb(work: Work) -> None:
    """A constant factor, then a constant summand, along the normalised axes go into the operator before them."""
    uses, producers = work.uses(), work.producers()
    kept = []
    for node in work.nodes:
        affine = affine_of(work, node)
        norm = producers.get(affine.source) if affine is not None else None
        if affine is None or norm is None or uses[affine.source] != 1 or not _takes(work, norm):
            kept.append(node)
            continue
        shape = work.types[norm.outputs[0]].shape
        behind = shape[int(norm.attr("axis", -1)) % len(shape) :]
        factor, summand = (_along(value, shape, behind) for value in (affine.scale, affine.shift))
        if factor is None or summand is None:
            kept.append(node)
            continue
        before = work.arrays[norm.input(2)] if norm.input(2) else np.zeros(behind)
        scale, shift = work.arrays[norm.inputs[1]] * factor, before * factor + summand
        stem = norm.inputs[1]
        norm.inputs[1:] = [work.add_constant(stem, np.broadcast_to(scale, behind).astype(np.float32))]
        if shift.any():
            norm.inputs.append(work.add_constant(f"{stem}_shift", np.broadcast_to(shift, behind).astype(np.float32)))
        norm.outputs[0] = node.outputs[0]
        producers[node.outputs[0]] = norm
    work.nodes = kept


def _takes(work: Work, norm: Node) -> bool:
    """Whether this is a float32 layer normalisation with constant parameters and no second result."""
    constant = all(n in work.arrays for n in norm.inputs[1:] if n)
    single = norm.only_output() and work.type_of(norm.outputs[0]).dtype == "float32"
    return norm.op == "LayerNormalization" and not norm.domain and constant and single


def _along(value: np.ndarray, shape: tuple[int, ...], behind: tuple[int, ...]) -> np.ndarray | None:
    """``value`` on the normalised axes; None where it varies along another."""
    full = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if any(d != 1 for d in full.shape[: len(shape) - len(behind)]):
        return None
    return full.reshape(full.shape[len(shape) - len(behind) :])


def instance_norm_to_layer_norm(work: Work) -> None:
    """Each channel of each image [N, C, ...] is a row [N, C, L] that is normalised; then what scales and shifts it."""
    if work.opset >= _OPSET:
        replace(work, _by_rows)


def _by_rows(work: Work, node: Node) -> list[Node]:
    """What stands for an InstanceNormalization; nothing where a node stays."""
    if node.op != "InstanceNormalization" or node.domain or any(n not in work.arrays for n in node.inputs[1:]):
        return []
    source, kind = node.inputs[0], work.types[node.outputs[0]]
    if source in work.arrays or kind.dtype != "float32" or len(kind.shape) < 3 or not prod(kind.shape):
        return []
    rows = (*kind.shape[:2], prod(kind.shape[2:]))
    scale, shift = (work.arrays[name].reshape(-1, 1) for name in node.inputs[1:])
    made = Chain(work, node, source).reshaped(*rows)
    ones, epsilon = np.ones(rows[-1], np.float32), node.attr("epsilon", 1e-5)
    made.then("LayerNormalization", rows, ones, axis=-1, epsilon=epsilon).then("Mul", rows, scale).then(
        "Add", rows, shift
    )
    return made.reshaped(*kind.shape).end()
