"""Which sets of layers may form a block, and whether a plan covers its Graph; every refusal says why."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tuner.errors import UserError
from tuner.graph.ir import Graph, Layer
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.layout import block_of
from tuner.plan.plan import Plan
from tuner.plan.shuffle import SHUFFLE

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_SHUFFLED = (*SHUFFLE, "Conv")
_DEALT = ("DepthToSpace", "Slice")


def why_illegal(graph: Graph, layers: Collection[str]) -> str | None:
    """Why these layers cannot be one block; None when they can.

    Legal means: known, connected or sharing an input, convex (no path leaves the set and comes back), and with at most
    one layer that is not elementwise, save for the patterns that a template knows (convolution + pooling, two
    convolutions in a row, three of which the second is depthwise and the third 1x1, channel shuffle, also in front of a
    convolution, DepthToSpace and a Slice of it, a product with Transposes of its operands and its result).
    """
    if unknown := [x for x in layers if x not in graph.by_id]:
        return f"layer {unknown[0]!r} is not in the graph"
    if not layers:
        return "a block has at least one layer"
    ids = set(layers)
    if not _connected(graph, ids):
        return "its layers neither feed each other nor share an input"
    if path := _leaving_path(graph, ids):
        return f"a path leaves it through {path!r} and comes back"
    heavy = [graph.by_id[i] for i in sorted(ids, key=graph.position.__getitem__)
             if graph.by_id[i].op not in ELEMENTWISE]  # fmt: skip
    if not fusible(heavy):
        ops = ", ".join(x.op for x in heavy)
        return f"it has {len(heavy)} layers that are not elementwise ({ops}), and no template fuses those"
    if stray := _unchained(graph, ids):
        return f"its convolution {stray!r} reads no result of the others, and no template does them side by side"
    return None


def fusible(layers: Sequence[Layer]) -> bool:
    """Whether some template knows these layers that are not elementwise, in running order, as one block."""
    ops = [layer.op for layer in layers]
    return (
        len(ops) < 2
        or tuple(ops) in {SHUFFLE, _SHUFFLED, _DEALT}
        or _conv_pool(ops)
        or transposed_product(ops)
        or (set(ops) == {"Conv"} and (len(ops) == 2 or (len(ops) == 3 and _separable(layers[1:]))))
    )


def may_lead(layers: Sequence[Layer]) -> bool:
    """Whether other layers in front of these, which are not elementwise, in running order, may join them in a block."""
    ops = [layer.op for layer in layers]
    return (
        len(ops) < 2
        or tuple(ops) in {SHUFFLE[1:], _SHUFFLED[1:], _SHUFFLED[2:]}
        or _conv_pool(ops)
        or transposed_product(ops)
        or (ops == ["Conv", "Conv"] and _separable(layers))
    )


def _conv_pool(ops: Sequence[str]) -> bool:
    return len(ops) == 2 and ops[0] == "Conv" and ops[1] in POOLS


def _separable(convs: Sequence[Layer]) -> bool:
    """Whether two convolutions look like a depthwise one and a 1x1 one; their templates look closer."""
    return convs[0].attr("group", 1) > 1 and all(k == 1 for k in convs[1].attr("kernel_shape") or ())


def _unchained(graph: Graph, ids: set[str]) -> str | None:
    """The id of a convolution, not the first to run, whose image is made outside the set; None if there is none."""
    convs = sorted((i for i in ids if graph.by_id[i].op == "Conv"), key=graph.position.__getitem__)
    makers = ((i, graph.producer.get(graph.by_id[i].inputs[0])) for i in convs[1:])
    return next((i for i, maker in makers if maker is None or maker.id not in ids), None)


def transposed_product(ops: Sequence[str]) -> bool:
    """Whether these operators are one MatMul and at most three Transposes."""
    return ops.count("MatMul") == 1 and ops.count("Transpose") == len(ops) - 1 <= 3


def _connected(graph: Graph, ids: set[str]) -> bool:
    """Whether the undirected graph over the set, joined by tensors produced or read in common, is in one piece."""
    by_tensor: dict[str, list[str]] = {}
    for i in ids:
        layer = graph.by_id[i]
        for name in {*layer.inputs, *layer.outputs} & graph.tensors.keys():
            by_tensor.setdefault(name, []).append(i)
    seen, todo = set(), [next(iter(ids))]
    while todo:
        i = todo.pop()
        if i in seen:
            continue
        seen.add(i)
        layer = graph.by_id[i]
        for name in (*layer.inputs, *layer.outputs):
            todo.extend(by_tensor.get(name, ()))
    return seen == ids


def _leaving_path(graph: Graph, ids: set[str]) -> str | None:
    """The id of an outside layer that depends on the set and on which the set depends, if there is one."""
    first = min(graph.position[i] for i in ids)
    last = max(graph.position[i] for i in ids)
    tainted: set[str] = set()  # tensors outside that depend on the set
    for layer in graph.layers[first : last + 1]:
        if layer.id in ids:
            if back := tainted.intersection(layer.inputs):
                return graph.producer[next(iter(back))].id
        elif any(n in tainted or (n in graph.producer and graph.producer[n].id in ids) for n in layer.inputs):
            tainted.update(layer.outputs)
    return None


def validate(plan: Plan, graph: Graph, cores: int) -> None:
    """Check a plan against its Graph and the device's cores. Raises UserError(code="bad-plan") naming the place."""
    if plan.graph != graph.hash:
        raise _misfit("it was made for another graph (its hash differs)")
    done: set[str] = set(graph.inputs)
    seen: set[str] = set()
    for i, stage in enumerate(plan.stages):
        if sum(lane.cores for lane in stage.lanes) > cores and len(stage.lanes) > 1:
            raise _misfit(f"stages[{i}] wants more cores than the device's {cores}")
        ready = frozenset(done)
        for j, lane in enumerate(stage.lanes):
            available = set(ready)
            for k, block in enumerate(lane.blocks):
                where = f"stages[{i}].lanes[{j}].blocks[{k}]"
                _check_block(graph, block.layers, where, seen, available)
                if block.cores > cores:
                    raise _misfit(f"{where}.cores is {block.cores}, the device has {cores}")
                for layout in block.reads.values():
                    block_of(layout)
                outputs = {o for layer in block.layers for o in graph.by_id[layer].outputs}
                available |= outputs
                done |= outputs
    if missing := [x.id for x in graph.layers if x.id not in seen]:
        raise _misfit(f"layer {missing[0]!r} is in no block")
    for tensor, layout in plan.layouts.items():
        if tensor not in graph.tensors:
            raise _misfit(f"layouts names {tensor!r}, which is not a tensor of the graph")
        if block_of(layout) and len(graph.tensors[tensor].shape) != 4:
            raise _misfit(f"layouts gives {tensor!r} the layout {layout}, but it does not have four dimensions")
        if block_of(layout) and tensor in graph.inputs:
            raise _misfit(f"layouts gives {tensor!r} the layout {layout}, but the model's inputs come plain")


def _check_block(graph: Graph, layers: tuple[str, ...], where: str, seen: set[str], available: set[str]) -> None:
    if reason := why_illegal(graph, layers):
        raise _misfit(f"{where} is not a legal block: {reason}")
    if twice := seen.intersection(layers):
        raise _misfit(f"layer {next(iter(twice))!r} is in more than one block ({where})")
    if len(set(layers)) < len(layers):
        raise _misfit(f"{where} names layer {max(layers, key=layers.count)!r} twice")
    seen.update(layers)
    inside = {o for i in layers for o in graph.by_id[i].outputs}
    for i in layers:
        for name in graph.by_id[i].inputs:
            if name in graph.tensors and name not in inside and name not in available:
                raise _misfit(f"{where} reads {name!r} before it is made")


def _misfit(what: str) -> UserError:
    return UserError(f"The plan does not fit the model: {what}.", code="bad-plan")
