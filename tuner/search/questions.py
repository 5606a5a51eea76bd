"""The questions a plan asks: one per distinct (workload, layouts, template), each at several core counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tuner.build.assemble import block_layouts
from tuner.graph.ir import Graph
from tuner.kernels.base import Space
from tuner.kernels.registry import template
from tuner.plan.plan import IMPORTED, VIEW, Block, Plan
from tuner.plan.workload import workload_of
from tuner.search.knobs import KnobSearch
from tuner.types import Candidate, Device


@dataclass
class Question:
    """What one kernel of the plan should be: its knobs, and how many cores. Equal blocks share one question."""

    workload: Graph
    layouts: Mapping[str, str]
    template: str
    space: Space
    searches: dict[int, KnobSearch]  # cores -> search
    planned: int  # cores the plan gave it before anything was measured
    uses: int = 0  # blocks of the plan it stands for
    layers: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def main(self) -> KnobSearch:
        """The search at the most cores, where the knobs are looked for."""
        return self.searches[max(self.searches)]

    def answer(self) -> tuple[Mapping[str, int], int, float | None]:
        """(knobs, cores, seconds) of the fastest known; the default where nothing was measured."""
        found = [(s.best[1], cores, s.best[0]) for cores, s in self.searches.items() if s.best]
        if not found:
            return self.space.default, self.planned, None
        seconds, cores, knobs = min(found, key=lambda f: f[:2])
        return knobs, cores, seconds


def questions(
    plan: Plan, graph: Graph, device: Device, *, cores: Sequence[int], precision: str, seed: int, residency: str
) -> dict[tuple[str, ...], Question]:
    """Questions by the layers of the blocks that ask them; views and imported layers ask none."""
    by_key: dict[str, Question] = {}
    found = {}
    for block in plan.blocks:
        if block.template in {VIEW, IMPORTED}:
            continue
        bound = workload_of(graph, block.layers)
        layouts = block_layouts(plan, block, bound)
        maker = template(block.template)
        candidate = Candidate(
            workload=bound.workload.to_json(),
            workload_hash=bound.workload.hash,
            layouts=layouts,
            template=block.template,
            template_version=maker.version,
            knobs={},
            cores=max(cores),
            precision=precision,
            residency=residency,
        )
        key = candidate.record_key
        if key not in by_key:
            space = maker.space(bound.workload, layouts, device)
            searches = {
                c: KnobSearch(replace(candidate, cores=c), bound.workload, space, device, seed + len(by_key))
                for c in cores
            }
            by_key[key] = Question(bound.workload, layouts, block.template, space, searches, block.cores)
        question = by_key[key]
        question.uses += 1
        question.layers.append(block.layers)
        for search in question.searches.values():
            search.weight = question.uses
        found[block.layers] = question
    return found


def answered(plan: Plan, asked: Mapping[tuple[str, ...], Question]) -> Plan:
    """The plan with every block's best known knobs and cores; blocks whose knobs are given keep them."""

    def change(block: Block) -> Block:
        question = asked.get(block.layers)
        if question is None or block.knobs is not None:
            return block
        knobs, cores, seconds = question.answer()
        return replace(block, knobs=dict(knobs), cores=block.cores if seconds is None else cores)

    return plan.map(change)


def defaults(plan: Plan, asked: Mapping[tuple[str, ...], Question]) -> Plan:
    """The plan with its templates' default knobs spelt out."""

    def change(block: Block) -> Block:
        question = asked.get(block.layers)
        if question is None or block.knobs is not None:
            return block
        return replace(block, knobs=dict(question.space.default))

    return plan.map(change)


def distinct(asked: Mapping[tuple[str, ...], Question]) -> list[Question]:
    """Each question once, in the plan's order."""
    return list({id(q): q for q in asked.values()}.values())


def core_counts(given: Collection[int] | None, device: Device) -> tuple[int, ...]:
    """Core counts to consider: those given, else powers of two and all."""
    if given:
        return tuple(sorted(set(given)))
    powers = {1 << k for k in range(device.cores.bit_length()) if 1 << k <= device.cores}
    return tuple(sorted(powers | {device.cores}))
