"""What the drawing of a network shows: one box a block, the tensors between boxes, and the facts about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.graph.ir import Graph, Layer

VIEW = "view"  # blocks that only rename memory: no kernel
HEAVY = ("Conv", "Gemm", "MatMul", "ConvTranspose", "LSTM", "GRU", "RNN")  # what a block is named after, if it has one


@dataclass(frozen=True)
class Op:
    """One layer inside a box."""

    id: str
    op: str
    shape: tuple[int, ...]  # of its first output
    ops: int  # operations of one run
    what: str  # "3×3 /2 64→128"; empty where the operator's name says it all


@dataclass(frozen=True)
class Box:
    """A block of the plan, with what was measured of it; None is what nobody knows."""

    layers: tuple[Op, ...]
    title: str  # "Conv 3×3 64→128"
    shape: tuple[int, ...]  # of what it hands on
    ops: int  # operations of one run
    bytes: int  # read and written by one run, weights included, inner tensors not
    workload: str  # hash; equal boxes are tuned once
    template: str | None = None  # None: no plan is known
    cores: int | None = None
    knobs: Mapping[str, int] | None = None
    layouts: Mapping[str, str] = field(default_factory=dict)  # tensor -> layout, where it is not plain
    ms: float | None = None
    share: float | None = None  # of the time of all kernels, 0..1
    gflops: float | None = None
    together: float | None = None  # ms of the call in which it runs beside others, which alone is timed

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(layer.id for layer in self.layers)

    @property
    def view(self) -> bool:
        return self.template == VIEW


@dataclass(frozen=True)
class Link:
    """A tensor that crosses boxes. ``source`` -1 is the model's input, ``target`` -1 its output."""

    source: int
    target: int
    tensor: str
    shape: tuple[int, ...]
    layout: str = "plain"
    converted: str | None = None  # the reader wants it in this other layout


@dataclass(frozen=True)
class Network:
    """Boxes in running order and the links between them."""

    boxes: tuple[Box, ...]
    links: tuple[Link, ...]
    planned: bool  # False: every layer stands alone

    @cached_property
    def most_cores(self) -> int:
        return max((box.cores or 1 for box in self.boxes), default=1)


def network(graph: Mapping[str, Any], plan: Mapping[str, Any] | None, blocks: Sequence[Mapping[str, Any]]) -> Network:
    """The picture's content from ``Graph.to_json()``, ``Plan.to_json()`` and the report's ``blocks``.

    Without a plan every layer is a box of its own on one core, as in the unoptimised baseline.
    """
    from tuner.graph.ir import Graph  # knows neither TVM nor numpy

    whole = Graph.from_json(graph)
    timed = {tuple(block["layers"]): block for block in blocks if block["layers"]}
    groups = _groups(whole, plan)
    layouts = dict(plan.get("layouts", {})) if plan else {}
    boxes = tuple(_box(whole, group, timed, layouts, plan is not None) for group in groups)
    return Network(boxes, tuple(_links(whole, groups, layouts)), plan is not None)


def _groups(graph: Graph, plan: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Blocks as the plan's JSON has them. Layers that the plan does not name are shown alone, not left out."""
    planned = [
        block
        for stage in (plan or {}).get("stages", ())
        for lane in stage["lanes"]
        for block in lane["blocks"]
        if all(layer in graph.by_id for layer in block["layers"])
    ]
    named = {layer for block in planned for layer in block["layers"]}
    return planned + [{"layers": [x.id], "cores": 1} for x in graph.layers if x.id not in named]


def _box(
    graph: Graph,
    group: Mapping[str, Any],
    timed: Mapping[tuple[str, ...], Mapping[str, Any]],
    layouts: Mapping[str, str],
    planned: bool,
) -> Box:
    from tuner.graph.costs import layer_cost
    from tuner.plan.workload import workload_of

    ids = tuple(group["layers"])
    layers = [graph.by_id[i] for i in ids]
    bound = workload_of(graph, ids)
    work, names = bound.workload, bound.names
    ops = tuple(_op(graph, layer, layer_cost(graph, layer).ops) for layer in layers)
    outer = dict.fromkeys((*work.inputs, *work.outputs))
    known = timed.get(ids, {}) if planned else {}
    return Box(
        layers=ops,
        title=_title(ops),
        shape=work.tensors[work.outputs[0]].shape,
        ops=sum(op.ops for op in ops),
        bytes=sum(work.type_of(n).bytes for n in dict.fromkeys((*work.inputs, *work.constants, *work.outputs))),
        workload=work.hash,
        template=group.get("template"),
        cores=group.get("cores"),
        knobs=group.get("knobs") or known.get("knobs"),
        layouts={names[n]: layouts[names[n]] for n in outer if names[n] in layouts} | dict(group.get("reads", {})),
        ms=known.get("ms"),
        share=known.get("share"),
        gflops=known.get("gflops"),
        together=(known.get("together") or {}).get("ms"),
    )


def _links(graph: Graph, groups: Sequence[Mapping[str, Any]], layouts: Mapping[str, str]) -> list[Link]:
    owner = {layer: number for number, group in enumerate(groups) for layer in group["layers"]}
    makers = {name: owner[layer.id] for name, layer in graph.producer.items()}
    found: dict[tuple[int, int, str], Link] = {}
    for number, group in enumerate(groups):
        reads = group.get("reads", {})
        for layer in group["layers"]:
            for name in graph.by_id[layer].inputs:
                source = makers.get(name, -1)
                if name in graph.tensors and source != number:
                    shape, layout = graph.tensors[name].shape, layouts.get(name, "plain")
                    wanted = reads.get(name)
                    found[source, number, name] = Link(
                        source, number, name, shape, layout, wanted if wanted != layout else None
                    )
    for name in graph.outputs:
        if name in graph.tensors:
            source = makers.get(name, -1)
            found[source, -1, name] = Link(source, -1, name, graph.tensors[name].shape, layouts.get(name, "plain"))
    return list(found.values())


def _op(graph: Graph, layer: Layer, ops: int) -> Op:
    output = next((name for name in layer.outputs if name), "")
    shape = graph.tensors[output].shape if output in graph.tensors else ()
    return Op(layer.id, layer.op, shape, ops, _what(graph, layer))


def _what(graph: Graph, layer: Layer) -> str:
    """Kernel, stride and channels of a layer that has them."""
    parts = []
    kernel, strides = layer.attr("kernel_shape"), layer.attr("strides", (1,))
    if kernel:
        parts.append("×".join(map(str, kernel)))
    if any(stride > 1 for stride in strides):
        parts.append(f"/{strides[0]}")
    if layer.op in ("Conv", "Gemm", "ConvTranspose"):
        given, groups = graph.type_of(layer.inputs[0]).shape, layer.attr("group", 1)
        channels = given[-1] if layer.op == "Gemm" else given[1]
        parts.append(f"{channels}→{graph.tensors[layer.outputs[0]].shape[1]}")
        if groups > 1:
            parts.append("depthwise" if groups == channels else f"{groups} groups")
    return " ".join(parts)


def _title(ops: Sequence[Op]) -> str:
    main = max((op for op in ops if op.op in HEAVY), key=lambda op: op.ops, default=ops[0])
    name = {"GlobalAveragePool": "GlobalAvgPool", "AveragePool": "AvgPool"}.get(main.op, main.op)
    return f"{name} {main.what}".strip()
