"""The plan space: every legal block of a Graph on a device, and the distinct questions these blocks ask.

A block is grown from its last layer, its *sink*: a layer joins when all that read it are inside, so that exactly one
tensor leaves a block. Such sets are convex, and sorting a plan's blocks by their sinks gives an order to run them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from tuner.errors import UserError
from tuner.graph.ir import Graph, Layer
from tuner.plan.cones import Cones, bits
from tuner.plan.handover import HandOver
from tuner.plan.layout import PLAIN
from tuner.plan.workload import Bound, workload_of
from tuner.types import Candidate, Device

MOST_BLOCKS = 200_000
SIMULATED = "simulated"  # the template of simulated devices

Evaluation = tuple[int, int]  # (index of a question, index of a core count): what a measurement answers


@dataclass(frozen=True)
class Variant:
    """One way to run a set of layers: the template that serves it, and the layouts it reads and writes.

    Layouts are by tensor of the Graph; tensors that are not named are plain.
    """

    template: str
    reads: Mapping[str, str]
    writes: Mapping[str, str]
    bound: Bound | None = field(default=None, compare=False, repr=False)  # the workload, if it was made to find this


class BlockRules(Protocol):
    """What a device can fuse."""

    def may_grow(self, heavy: Sequence[Layer]) -> bool:
        """Whether more layers may join a set with these that are not elementwise."""

    def variants(self, graph: Graph, layers: tuple[str, ...]) -> Sequence[Variant]:
        """How the set may run as one block; none = it may not. A single layer always may."""


@dataclass(frozen=True)
class BlockOption:
    """A block with its layouts. ``reads`` and ``writes`` map the Graph's tensor names to layouts.

    They name every tensor that crosses the block, or, where all is plain in the whole space, perhaps none.
    """

    layers: tuple[str, ...]  # in the Graph's order
    mask: int  # bit i = the Graph's layer i is in it
    sink: int  # position of its last layer
    question: int
    reads: Mapping[str, str]
    writes: Mapping[str, str]


@dataclass(frozen=True)
class BlockQuestion:
    """Equal blocks ask one question: how long does this workload take with these layouts?"""

    layers: tuple[str, ...]  # of one block that asks it
    variant: Variant

    @property
    def template(self) -> str:
        return self.variant.template


@dataclass(frozen=True)
class PlanSpace:
    """All that may be decided about a Graph on a device. Made by ``plan_space``."""

    graph: Graph
    device: Device
    cores: tuple[int, ...]  # core counts considered, ascending
    blocks: tuple[BlockOption, ...]
    questions: tuple[BlockQuestion, ...]
    conversions: Mapping[str, float] = field(default_factory=dict)  # tensor -> seconds to change its layout
    residency: str = "dram"  # where weights come from; see Candidate
    precision: str = "fp32"
    complete: bool = True  # False: some sink had too many blocks, and the largest were left out

    @property
    def evaluations(self) -> int:
        """How many measurements the whole table takes."""
        return len(self.questions) * len(self.cores)

    @cached_property
    def by_sink(self) -> tuple[tuple[int, ...], ...]:
        """Position of a layer -> indexes of the blocks that end there, the smallest first."""
        found: list[list[int]] = [[] for _ in self.graph.layers]
        for index, block in enumerate(self.blocks):
            found[block.sink].append(index)
        return tuple(tuple(each) for each in found)

    @cached_property
    def ending_in(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """The same with what a dynamic programme asks of the blocks: (index, mask, question) of each."""
        blocks = self.blocks
        return tuple(tuple((i, blocks[i].mask, blocks[i].question) for i in each) for each in self.by_sink)

    @cached_property
    def block_of(self) -> Mapping[frozenset[str], tuple[int, ...]]:
        """Set of layers -> its blocks, one per variant."""
        found: dict[frozenset[str], tuple[int, ...]] = {}
        for index, block in enumerate(self.blocks):
            key = frozenset(block.layers)
            found[key] = (*found.get(key, ()), index)
        return found

    @cached_property
    def _bound(self) -> dict[tuple[str, ...], Bound]:
        return {}

    def bound(self, question: int) -> Bound:
        """The canonical workload and how it is bound in the Graph; made when first asked for."""
        layers = self.questions[question].layers  # several questions may be about the same: see Variant
        if layers not in self._bound:
            self._bound[layers] = self.questions[question].variant.bound or workload_of(self.graph, layers)
        return self._bound[layers]

    @cached_property
    def hand_over(self) -> HandOver:
        """What layouts cost between the blocks."""
        return HandOver(self.blocks, self.conversions)

    def workload(self, question: int) -> Graph:
        """The canonical workload of a question."""
        return self.bound(question).workload

    def layouts(self, question: int) -> dict[str, str]:
        """Layouts of what the block reads and writes, by the workload's tensor names; simulated devices have none."""
        bound, variant = self.bound(question), self.questions[question].variant
        if variant.template == SIMULATED:
            return {}
        names, workload = bound.canonical, bound.workload
        plain = dict.fromkeys((*workload.inputs, *workload.outputs), PLAIN)
        return plain | {names[n]: v for n, v in {**variant.reads, **variant.writes}.items()}

    def candidate(self, evaluation: Evaluation, knobs: Mapping[str, int], template_version: int = 1) -> Candidate:
        """What a runner is asked for an evaluation."""
        question, cores = evaluation
        asked, workload = self.questions[question], self.workload(question)
        return Candidate(
            workload=workload.to_json(), workload_hash=workload.hash, layouts=self.layouts(question),
            template=asked.template, template_version=template_version, knobs=knobs, cores=self.cores[cores],
            precision=self.precision, residency=self.residency,
        )  # fmt: skip


def plan_space(
    graph: Graph, device: Device, cores: Sequence[int], rules: BlockRules, *, residency: str = "dram",
    conversions: Mapping[str, float] | None = None,
) -> PlanSpace:  # fmt: skip
    """Enumerate the blocks of a Graph.

    Raises:
        UserError: the space has more than MOST_BLOCKS blocks (``space-too-large``).
    """
    signatures, cones = _Signatures(graph), Cones(graph, rules.may_grow)
    asked: dict[Any, int] = {}
    blocks: list[BlockOption] = []
    questions: list[BlockQuestion] = []
    complete = True
    for sink in range(len(graph.layers)):
        masks, whole = cones.ending_in(sink)
        complete &= whole
        for mask in masks:
            layers = tuple([graph.layers[i].id for i in bits(mask)])
            variants = rules.variants(graph, layers)
            signature = signatures.of(mask) if variants else None
            for variant in variants:
                key = (signature, variant.template, _positional(graph, layers, variant))
                if key not in asked:
                    asked[key] = len(questions)
                    questions.append(BlockQuestion(layers, variant))
                blocks.append(BlockOption(layers, mask, sink, asked[key], variant.reads, variant.writes))
        if len(blocks) > MOST_BLOCKS:
            raise UserError(
                f"The model has more than {MOST_BLOCKS:,} blocks to choose from.", code="space-too-large",
                hint="Limit the depth of blocks, or use the strategy greedy.",
            )  # fmt: skip
    if any(layout != PLAIN for b in blocks for layout in (*b.reads.values(), *b.writes.values())):
        ends = {layers: crossing(graph, layers) for layers in dict.fromkeys(block.layers for block in blocks)}
        blocks = [_all_named(block, *ends[block.layers]) for block in blocks]
    return PlanSpace(
        graph, device, tuple(cores), tuple(blocks), tuple(questions), conversions or {}, residency, "fp32", complete
    )


def _all_named(block: BlockOption, reads: Sequence[str], writes: Sequence[str]) -> BlockOption:
    """With the layout of every tensor that crosses it."""
    return replace(
        block,
        reads={n: block.reads.get(n, PLAIN) for n in reads},
        writes={n: block.writes.get(n, PLAIN) for n in writes},
    )


def _positional(graph: Graph, layers: tuple[str, ...], variant: Variant) -> tuple[str, ...]:
    """The variant's layouts in the order in which the layers read and write, free of the Graph's names."""
    names = dict.fromkeys(n for i in layers for n in (*graph.by_id[i].inputs, *graph.by_id[i].outputs))
    every = {**variant.reads, **variant.writes}
    return tuple(every[n] for n in names if n in every)


class _Signatures:
    """Tells equal computations without making their workloads: what each layer is, and which reads which."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        known: dict[Any, int] = {}
        self._own = [known.setdefault(self._describe(layer), len(known)) for layer in graph.layers]

        numbers: dict[str, int] = {}
        self._names = [
            [numbers.setdefault(n, len(numbers)) for n in (*layer.inputs, *layer.outputs) if n]
            for layer in graph.layers
        ]
        self._leaving = [
            tuple(n in graph.outputs or bool(graph.consumers[n]) for n in layer.outputs if n) for layer in graph.layers
        ]

    def _describe(self, layer: Layer) -> Any:
        graph = self._graph
        names = [*layer.inputs, *layer.outputs]
        types = tuple(None if not n else (graph.type_of(n).shape, graph.type_of(n).dtype) for n in names)
        values = tuple(graph.constants[n].value for n in layer.inputs if n in graph.constants)
        return layer.op, layer.domain, layer.attrs, types, values

    def of(self, mask: int) -> Any:
        """Equal for equal workloads."""
        order = bits(mask)
        number: dict[int, int] = {}
        wiring = [number.setdefault(n, len(number)) for i in order for n in self._names[i]]
        return tuple([self._own[i] for i in order]), tuple(wiring), self._leaving[order[-1]]


def crossing(graph: Graph, layers: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tensors that a set of layers reads from outside, and those it makes for outside."""
    inside = set(layers)
    made = {n for i in layers for n in graph.by_id[i].outputs if n}
    reads = dict.fromkeys(
        n for i in layers for n in graph.by_id[i].inputs if n and n in graph.tensors and n not in made
    )
    writes = [
        n for i in layers for n in graph.by_id[i].outputs
        if n and (n in graph.outputs or any(c.id not in inside for c in graph.consumers[n]))
    ]  # fmt: skip
    return list(reads), writes
