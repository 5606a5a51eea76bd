"""If and Loop whose course is known before the model runs become plain nodes; all others are refused."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, numpy_helper

from tuner.errors import UserError
from tuner.graph.work import Node, Work

_LONGEST = 4096  # rounds of a Loop that are unrolled


def inline(work: Work, node: Node) -> list[Node]:
    """The nodes that do what an If or Loop does. Raises UserError when its course depends on data."""
    if node.domain == "" and node.op == "If":
        return _inline_if(work, node)
    if node.domain == "" and node.op == "Loop":
        return _unroll(work, node)
    raise UserError(f"Control flow is not supported at {node.where}.", code="control-flow")


def _inline_if(work: Work, node: Node) -> list[Node]:
    condition = work.value(node.input(0))
    branch = node.graphs.get("then_branch" if condition is not None and condition.all() else "else_branch")
    if condition is None or branch is None:
        raise UserError(
            f"Which branch {node.where} takes depends on data.",
            code="control-flow",
            hint="Control flow must follow from shapes and constants alone.",
        )
    nodes, outputs = _body(work, branch, {})
    return nodes + [Node("Identity", [o], [name]) for o, name in zip(outputs, node.outputs, strict=True) if name]


def _unroll(work: Work, node: Node) -> list[Node]:
    """One round of the loop, followed by a Loop of one round less."""
    body = node.graphs["body"]
    carried = node.inputs[2:]
    if len(node.outputs) > len(carried) or len(body.output) != len(carried) + 1:
        raise UserError(f"A Loop that collects outputs is not supported at {node.where}.", code="control-flow")
    rounds = work.value(node.input(0)) if node.input(0) else np.array(_LONGEST + 1)
    going = work.value(node.input(1)) if node.input(1) else np.array(True)
    if rounds is None or going is None:
        raise UserError(
            f"How often {node.where} loops depends on data.",
            code="control-flow",
            hint="Control flow must follow from shapes and constants alone.",
        )
    step = int(node.attr("round", 0))
    if step >= int(rounds) or not going.all():
        return [Node("Identity", [o], [name]) for o, name in zip(carried, node.outputs, strict=False) if name]
    if step >= _LONGEST:
        raise UserError(f"More than {_LONGEST} rounds are not unrolled at {node.where}.", code="control-flow")
    number = work.add_constant("round", np.array(step, dtype=np.int64))
    condition = node.input(1) or work.add_constant("going", np.array(True))
    values = [number, condition, *carried]
    nodes, outputs = _body(work, body, dict(zip((i.name for i in body.input), values, strict=True)))
    rest = Node("Loop", [node.input(0), *outputs], node.outputs, {"round": step + 1}, "", node.label, node.graphs)
    return [*nodes, rest]


def _body(work: Work, graph: GraphProto, names: dict[str, str]) -> tuple[list[Node], list[str]]:
    """A subgraph's nodes with fresh names, and the names of its outputs."""
    from tuner.graph.parse import to_node  # parse needs infer, which needs this module

    names = dict(names)
    for tensor in graph.initializer:
        names[tensor.name] = work.add_constant(tensor.name, numpy_helper.to_array(tensor))
    nodes = []
    for proto in graph.node:
        copy = NodeProto()
        copy.CopyFrom(proto)
        names |= {o: work.fresh(o) for o in proto.output if o}
        _rename(copy, names)
        node = to_node(copy, work)
        if node is not None:
            nodes.append(node)
    return nodes, [names.get(o.name, o.name) for o in graph.output]


def _rename(proto: NodeProto, names: dict[str, str]) -> None:
    """Apply ``names`` to a node and to what its subgraphs read from outside."""
    proto.input[:] = [names.get(n, n) for n in proto.input]
    proto.output[:] = [names.get(n, n) for n in proto.output]
    for attribute in proto.attribute:
        if not attribute.HasField("g"):
            continue
        inner = attribute.g
        own = {i.name for i in inner.input} | {i.name for i in inner.initializer}
        own |= {o for child in inner.node for o in child.output}
        outer = {k: v for k, v in names.items() if k not in own}
        for child in inner.node:
            _rename(child, outer)
        for output, fresh in ((o, outer.get(o.name)) for o in inner.output):
            if fresh:
                output.name = fresh
