"""The questions a plan asks: one per distinct (workload, layouts), each with several templates and core counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tuner.build.blocks import block_layouts
from tuner.graph.ir import Graph
from tuner.kernels.base import KernelTemplate, Space
from tuner.kernels.registry import serving, template
from tuner.plan.joins import free_blocks
from tuner.plan.plan import IMPORTED, VIEW, Block, Plan
from tuner.plan.workload import workload_of
from tuner.search.knobs import KnobSearch
from tuner.search.lowering import needless, precision_for, twin
from tuner.types import Candidate, Device, record_key


@dataclass(frozen=True)
class Answer:
    """How a kernel is best built as far as is known; ``seconds`` None = nothing was measured, this is the default."""

    template: str
    knobs: Mapping[str, int]
    cores: int
    seconds: float | None


@dataclass
class Question:
    """What one kernel of the plan should be: template, knobs, cores. Equal blocks share one question."""

    workload: Graph
    layouts: Mapping[str, str]
    template: str  # the planned one
    space: Space  # of the planned template
    searches: dict[tuple[str, int], KnobSearch]  # (template, cores) -> search
    planned: int  # cores the plan gave it before anything was measured
    uses: int = 0  # blocks of the plan it stands for
    layers: list[tuple[str, ...]] = field(default_factory=list)
    twin: str | None = None  # the planned template's in bf16, if that is the answer until anything is measured

    @property
    def main(self) -> KnobSearch:
        """The planned template's search at the most cores."""
        return self.mains[0]

    @property
    def mains(self) -> list[KnobSearch]:
        """Every template's search at the most cores, where the knobs are looked for; the planned template's first."""
        most = max(cores for _, cores in self.searches)
        return [s for (_, cores), s in self.searches.items() if cores == most]

    def family(self, search: KnobSearch) -> list[KnobSearch]:
        """The searches of the same template at other core counts."""
        name = search.candidate.template
        return [s for (template, _), s in self.searches.items() if template == name and s is not search]

    def answer(self, without: Collection[str] = ()) -> Answer:
        """The fastest known, other templates than those ``without``; the planned default where nothing was measured."""
        found = [
            (s.best[1], cores, name, s.best[0])
            for (name, cores), s in self.searches.items()
            if s.best and name not in without
        ]
        if not found:
            return self.unmeasured(without)
        seconds, cores, name, knobs = min(found, key=lambda f: f[:3])
        return Answer(name, knobs, cores, seconds)

    def unmeasured(self, without: Collection[str] = ()) -> Answer:
        """What it is as long as nothing was measured: the planned template's default, or that of its twin."""
        if self.twin is not None and self.twin not in without:
            space = next(s.space for (name, _), s in self.searches.items() if name == self.twin)
            return Answer(self.twin, space.default, self.planned, None)
        return Answer(self.template, self.space.default, self.planned, None)

    def settle(self, cores: int) -> None:
        """Ask about this core count alone from now on."""
        self.planned = cores
        self.searches = {key: search for key, search in self.searches.items() if key[1] == cores}

    def compare(self) -> None:
        """Tell each template's search how fast its best rival is: being slower than that is no gain."""
        for search in self.mains:
            others = [s.best[1] for s in self.mains if s is not search and s.best]
            search.rival = min(others, default=None)


Asked = Mapping[tuple[str, ...], Question]  # by the layers of the blocks that ask


def known_share(asked: Asked) -> float:
    """Share of a plan's questions of which anything is known."""
    found = distinct(asked)
    return sum(q.answer().seconds is not None for q in found) / max(1, len(found))


def questions(
    plan: Plan,
    graph: Graph,
    device: Device,
    *,
    cores: Sequence[int],
    precision: str,
    seed: int,
    residency: str,
    alternatives: bool = True,
    exact: frozenset[str] = frozenset(),
) -> dict[tuple[str, ...], Question]:
    """Questions by the layers of the blocks that ask them; views, free concatenations and imported layers ask none.

    With ``alternatives`` every template that serves a block as planned takes part, not the planned one alone: in
    ``precision`` "bf16" those that store weights so, too, unless the block computes one of ``exact``.
    """
    by_key: dict[object, Question] = {}
    found = {}
    free = {block.layers for block in free_blocks(graph, plan)}
    for block in plan.blocks:
        if block.template in {VIEW, IMPORTED} or block.layers in free:
            continue
        bound = workload_of(graph, block.layers)
        layouts = block_layouts(plan, block, bound)
        key = (bound.workload.hash, tuple(sorted(layouts.items())), block.template)
        if key not in by_key:
            by_key[key] = question_of(
                bound.workload, layouts, block.template, device, cores=cores, precision=precision,
                seed=seed + len(by_key), residency=residency, alternatives=alternatives and block.knobs is None,
                planned=block.cores, exact=exact,
            )  # fmt: skip
        question = by_key[key]
        question.uses += 1
        question.layers.append(block.layers)
        for search in question.searches.values():
            search.weight = question.uses
        found[block.layers] = question
    return found


def question_of(
    workload: Graph, layouts: Mapping[str, str], planned_template: str, device: Device, *, cores: Sequence[int],
    precision: str, seed: int, residency: str, alternatives: bool, planned: int, exact: frozenset[str] = frozenset(),
) -> Question:  # fmt: skip
    """What a kernel for this workload with these layouts should be. ``planned``: cores, until anything is measured."""
    makers = _makers(workload, layouts, planned_template, device, precision, exact, alternatives)
    spaces = [maker.space(workload, layouts, device) for maker in makers]
    searches, written = {}, workload.to_json()
    for maker, space in zip(makers, spaces, strict=True):
        for count in cores:
            candidate = Candidate(
                workload=written, workload_hash=workload.hash, layouts=layouts, template=maker.name,
                template_version=maker.version, knobs={}, cores=count, precision=maker.precision,
                residency=residency,
            )  # fmt: skip
            searches[maker.name, count] = KnobSearch(candidate, workload, space, device, seed)
    first = twin(workload, planned_template, {maker.name for maker in makers})
    return Question(workload, layouts, planned_template, spaces[0], searches, planned, twin=first)


def record_keys(
    workload: Graph, layouts: Mapping[str, str], planned_template: str, device: Device, *, cores: Sequence[int],
    precision: str, residency: str, exact: frozenset[str] = frozenset(),
) -> list[str]:  # fmt: skip
    """Those of the searches of a question with alternatives, told without making it: many questions are never asked."""
    makers = _makers(workload, layouts, planned_template, device, precision, exact, alternatives=True)
    return [
        record_key(workload.hash, layouts, maker.name, maker.version, count, maker.precision, residency)
        for maker in makers
        for count in cores
    ]


def _makers(
    workload: Graph, layouts: Mapping[str, str], planned: str, device: Device, precision: str, exact: Collection[str],
    alternatives: bool,
) -> list[KernelTemplate]:  # fmt: skip
    """The templates that take part in a question, the planned one first."""
    makers = [template(planned)]
    if alternatives:
        allowed = precision_for(workload, precision, exact)
        makers += [maker for maker in serving(workload, layouts, device, allowed) if maker.name != planned]
    left_out = needless(workload, planned, {maker.name for maker in makers})
    return [maker for maker in makers if maker.name != left_out]


def answered(
    plan: Plan, asked: Asked, without: Collection[str] = (), answers: Mapping[tuple[str, ...], Answer] | None = None
) -> Plan:  # fmt: skip
    """The plan with every block's best known template, knobs and cores; blocks whose knobs are given keep them.

    ``answers``, by the blocks' layers, are taken instead of the best known ones.
    """

    def change(block: Block) -> Block:
        question = asked.get(block.layers)
        if question is None or block.knobs is not None:
            return block
        best = question.answer(without) if answers is None else answers[block.layers]
        cores = block.cores if best.seconds is None else best.cores
        return replace(block, template=best.template, knobs=dict(best.knobs), cores=cores)

    return plan.map(change)


def defaults(plan: Plan, asked: Asked, without: Collection[str] = ()) -> Plan:
    """The plan with its templates' default knobs spelt out, other templates than those ``without``."""

    def change(block: Block) -> Block:
        question = asked.get(block.layers)
        if question is None or block.knobs is not None:
            return block
        first = question.unmeasured(without)
        return replace(block, template=first.template, knobs=dict(first.knobs))

    return plan.map(change)


def distinct(asked: Asked) -> list[Question]:
    """Each question once, in the plan's order."""
    return list({id(q): q for q in asked.values()}.values())


def core_counts(given: Collection[int] | None, device: Device) -> tuple[int, ...]:
    """Core counts to consider: those given, else powers of two and all."""
    if given:
        return tuple(sorted(set(given)))
    powers = {1 << k for k in range(device.cores.bit_length()) if 1 << k <= device.cores}
    return tuple(sorted(powers | {device.cores}))
