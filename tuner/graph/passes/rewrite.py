"""Passes that replace one operator, or a small pattern, by another."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tuner.graph.attrs import FLOATS, numpy_dtype
from tuner.graph.passes.replacing import Chain, replace
from tuner.graph.work import Node, Type, Work

_POWERS = {2.0: ("Mul",), 3.0: ("Mul", "Mul"), 0.5: ("Sqrt",), -1.0: ("Reciprocal",)}  # what they are made of


def sum_to_add(work: Work) -> None:
    """Sum(a, b, c) = Add(Add(a, b), c); a Sum of one input is left to eliminate-nop."""
    nodes: list[Node] = []
    for node in work.nodes:
        if node.op != "Sum" or node.domain or len(node.inputs) < 2:
            nodes.append(node)
            continue
        left = node.inputs[0]
        for index, right in enumerate(node.inputs[1:], 2):
            if index == len(node.inputs):
                out = node.outputs[0]
            else:
                a, b = work.type_of(left), work.type_of(right)
                out = work.new_tensor(f"{node.outputs[0]}_sum", a.dtype, np.broadcast_shapes(a.shape, b.shape))
            nodes.append(Node("Add", [left, right], [out], label=node.label))
            left = out
    work.nodes = nodes


def batch_norm_to_scale_shift(work: Work) -> None:
    """y = x * s + t with s = scale / sqrt(var + epsilon), t = bias - mean * s, both of shape [C, 1, ...]."""
    nodes: list[Node] = []
    for node in work.nodes:
        if node.op != "BatchNormalization" or node.domain or not _is_inference(work, node):
            nodes.append(node)
            continue
        kind = work.types[node.outputs[0]]
        scale, bias, mean, var = (work.arrays[name].astype(np.float64) for name in node.inputs[1:5])
        with np.errstate(invalid="ignore", divide="ignore"):
            s = scale / np.sqrt(var + node.attr("epsilon", 1e-5))
        t = bias - mean * s
        if not np.isfinite(s).all():  # a broken variance: leave its consequences to the operator
            nodes.append(node)
            continue
        shape = (-1, *[1] * (len(kind.shape) - 2))
        dtype = numpy_dtype(kind.dtype)
        out = node.outputs[0]
        middle = work.new_tensor(f"{out}_scaled", kind.dtype, kind.shape)
        s_name = work.add_constant(f"{out}_scale", s.astype(dtype).reshape(shape))
        t_name = work.add_constant(f"{out}_shift", t.astype(dtype).reshape(shape))
        nodes.append(Node("Mul", [node.inputs[0], s_name], [middle], label=node.label))
        nodes.append(Node("Add", [middle, t_name], [out], label=node.label))
    work.nodes = nodes


def _is_inference(work: Work, node: Node) -> bool:
    if not all(name in work.arrays for name in node.inputs[1:5]) or not node.only_output():
        return False
    shape = work.type_of(node.inputs[0]).shape
    return (
        len(shape) >= 2
        and not node.attr("training_mode", 0)
        and all(work.arrays[name].shape == shape[1:2] for name in node.inputs[1:5])
    )


def matmul_to_gemm(work: Work) -> None:
    """Add(MatMul(A, B), bias) = Gemm(A, B, bias) for A of rank 2, constant B, and a constant bias along the columns."""
    uses, producers = work.uses(), work.producers()
    gone: set[int] = set()
    for node in work.nodes:
        if node.op != "Add" or node.domain:
            continue
        for product, bias in (node.inputs, node.inputs[::-1]):
            maker = producers.get(product)
            if maker is None or maker.op != "MatMul" or uses[product] != 1 or bias not in work.arrays:
                continue
            a, b = maker.inputs
            kind = work.types[product]
            if b not in work.arrays or len(work.type_of(a).shape) != 2 or work.arrays[b].ndim != 2:
                continue
            if kind.dtype not in FLOATS or not _is_row(work.arrays[bias], kind):
                continue
            node.op, node.inputs, node.label = "Gemm", [a, b, bias], maker.label
            gone.add(id(maker))
            break
    work.nodes = [node for node in work.nodes if id(node) not in gone]


def split_to_slices(work: Work) -> None:
    """Each part that is read is a Slice: it may lie whole where it is cut from, and costs nothing then."""
    if work.opset >= 10:  # before that the bounds of a Slice are attributes
        uses = work.uses()
        replace(work, lambda work, node: _slices(work, node, uses))


def _slices(work: Work, node: Node, uses: Counter[str]) -> list[Node]:
    if node.op != "Split" or node.domain or not all(node.outputs):
        return []
    axis, start = int(node.attr("axis", 0)) % len(work.type_of(node.inputs[0]).shape), 0
    nodes = []
    for name in node.outputs:
        stop = start + work.types[name].shape[axis]
        bounds = {"start": start, "stop": stop, "axis": axis}
        given = [work.add_constant(f"{name}_{end}", np.array([at])) for end, at in bounds.items()]
        if uses[name]:
            nodes.append(Node("Slice", [node.inputs[0], *given], [name], label=node.label))
        start = stop
    return nodes


def space_to_depth_to_slices(work: Work) -> None:
    """Every n-th pixel of every n-th row, from each place of a square on, one behind the other as channels."""
    if work.opset >= 10:
        replace(work, _phases)


def _phases(work: Work, node: Node) -> list[Node]:
    if node.op != "SpaceToDepth" or node.domain:
        return []
    size, out, source = int(node.attr("blocksize")), node.outputs[0], work.type_of(node.inputs[0])
    n, c, *image = source.shape
    ends, axes, steps = (
        work.add_constant(f"{out}_{name}", np.array(values))
        for name, values in (("ends", image), ("axes", [2, 3]), ("steps", [size, size]))
    )
    nodes, parts = [], []
    for place in np.ndindex(size, size):
        parts.append(work.new_tensor(f"{out}_part", source.dtype, (n, c, *(extent // size for extent in image))))
        starts = work.add_constant(f"{out}_starts", np.array(place))
        nodes.append(Node("Slice", [node.inputs[0], starts, ends, axes, steps], parts[-1:], label=node.label))
    return [*nodes, Node("Concat", parts, [out], {"axis": 1}, label=node.label)]


def pow_to_mul(work: Work) -> None:
    """x to the power of 2, 3, 1/2 or -1, a constant, is x * x, x * x * x, Sqrt or Reciprocal."""
    replace(work, _power)


def _power(work: Work, node: Node) -> list[Node]:
    power = work.arrays.get(node.input(1)) if node.op == "Pow" and not node.domain else None
    if power is None or power.size != 1:
        return []
    source, kind = node.inputs[0], work.types[node.outputs[0]]
    steps = _POWERS.get(float(power.item()), ())
    if not steps or kind.dtype not in FLOATS or work.type_of(source) != kind:
        return []
    made = Chain(work, node, source)
    for op in steps:
        made.then(op, kind.shape, *([source] if op == "Mul" else []))
    return made.end()


def scales_to_sizes(work: Work) -> None:
    """Resize by numbers that give whole sizes names these, which say the same and are part of what a kernel knows."""
    for node in work.nodes:
        scales = work.arrays.get(node.input(2))
        if node.op != "Resize" or node.domain or scales is None or not scales.size or work.opset < 11:
            continue
        source, made = work.type_of(node.inputs[0]).shape, work.types[node.outputs[0]].shape
        axes = [int(axis) % len(source) for axis in node.attr("axes") or range(len(source))]
        exact = all(source[a] * float(s) == made[a] > 0 for a, s in zip(axes, scales.ravel(), strict=True))
        if exact and node.attr("coordinate_transformation_mode") != "tf_crop_and_resize":
            sizes = np.array([made[axis] for axis in axes])
            node.inputs = [node.inputs[0], "", "", work.add_constant(f"{node.outputs[0]}_sizes", sizes)]


def _is_row(array: np.ndarray, kind: Type) -> bool:
    return array.shape in ((kind.shape[1],), (1, kind.shape[1]))


def flatten_concat(work: Work) -> None:
    """Concat(Concat(a, b), c) = Concat(a, b, c) on the same axis.

    The inner one stays where something else reads it: in a DenseNet that is only the normalisation, which then copies
    and normalises in one pass while nothing is copied twice.
    """
    producers, bypassed = work.producers(), set()
    for node in work.nodes:
        if node.op != "Concat" or node.domain:
            continue
        rank = len(work.types[node.outputs[0]].shape)
        inputs: list[str] = []
        for name in node.inputs:
            maker = producers.get(name)
            inner = maker is not None and maker.op == "Concat" and not maker.domain
            if maker is not None and inner and maker.attr("axis", 1) % rank == node.attr("axis", 1) % rank:
                inputs.extend(maker.inputs)
                bypassed.add(name)
            else:
                inputs.append(name)
        node.inputs = inputs
    unread = {name for name in bypassed if not work.uses()[name]}
    work.nodes = [node for node in work.nodes if node.outputs[0] not in unread]
