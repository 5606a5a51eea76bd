"""The blocks of a valid plan as kernels: layouts, knobs, candidates; and what a plan may ask of templates."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.kernels.registry import BY_NAME, template
from tuner.plan.joins import joins
from tuner.plan.legality import VIEWS
from tuner.plan.plan import IMPORTED, VIEW, Block, Plan, Stage
from tuner.plan.slices import in_place
from tuner.plan.workload import Bound, workload_of
from tuner.types import Candidate, Device


def block_layouts(plan: Plan, block: Block, bound: Bound) -> dict[str, str]:
    """Layouts of a block's workload's inputs (as it reads them) and outputs (as they are stored)."""
    found = {n: block.reads.get(bound.names[n], plan.layout(bound.names[n])) for n in bound.workload.inputs}
    return found | {n: plan.layout(bound.names[n]) for n in bound.workload.outputs}


def knobs_of(block: Block, workload: Graph, layouts: Mapping[str, str], device: Device) -> Mapping[str, int] | None:
    """The block's knobs, or its template's default; None for views and imported layers."""
    if block.template in {VIEW, IMPORTED}:
        return None
    return block.knobs if block.knobs is not None else template(block.template).space(workload, layouts, device).default


def kernels_of(graph: Graph, plan: Plan, device: Device) -> list[Candidate]:
    """The kernels that the blocks of a valid plan call, each once, in running order; layout changes need more.

    Raises UserError when a block's template does not serve it as planned.
    """
    found, free = {}, joins(graph, plan)
    for block in plan.blocks:
        if block.template not in {VIEW, IMPORTED} and block.layers[0] not in free:
            candidate = kernel_of(block, workload_of(graph, block.layers), plan, device)
            found[candidate.key] = candidate
    return list(found.values())


def check_blocks(plan: Plan, graph: Graph, device: Device) -> None:
    """Raise UserError (``bad-plan``) when a template does not serve a block of a valid plan; nothing is built."""
    for block in plan.blocks:
        if block.template == VIEW:
            free = _is_slice(graph, plan, block)
            if computing := [i for i in block.layers if graph.by_id[i].op not in VIEWS and not free]:
                raise UserError(
                    f"The plan does not fit the model: layer {computing[0]!r} computes, and is no {VIEW!r}.",
                    code="bad-plan",
                )
        elif block.template != IMPORTED:
            bound = workload_of(graph, block.layers)
            _check_block(block, bound, block_layouts(plan, block, bound), device)
    for number, stage in enumerate(plan.stages):
        if len(stage.lanes) > 1 and (why := _why_apart(stage, plan, graph)):
            raise UserError(f"The plan does not fit the model: stages[{number}] {why}.", code="bad-plan")


def _why_apart(stage: Stage, plan: Plan, graph: Graph) -> str | None:
    """Why the lanes of a stage cannot run in one launch; None when they can."""
    joined = joins(graph, plan)
    inside = {o for lane in stage.lanes for b in lane.blocks for i in b.layers for o in graph.by_id[i].outputs}
    for lane in stage.lanes:
        if len(lane.blocks) > 1 and lane.cores > 1:
            return "has a lane of several blocks on several cores; one after the other they run on one core"
        for block in lane.blocks:
            if block.template in {VIEW, IMPORTED} or block.layers[0] in joined:
                return f"has {block.layers[0]!r} in a lane, which is no kernel of ours; give it a stage of its own"
            if any(block.reads.get(n, plan.layout(n)) != plan.layout(n) for n in inside):
                return f"has {block.layers[0]!r} read in another layout what another block of it makes"
    return None


def _check_block(block: Block, bound: Bound, layouts: Mapping[str, str], device: Device) -> Mapping[str, int]:
    """The knobs of a block that its template serves."""
    if block.template not in BY_NAME:
        raise UserError(
            f"The plan does not fit the model: there is no template {block.template!r}.",
            code="bad-plan", hint=f"Known: {', '.join(BY_NAME)}.",
        )  # fmt: skip
    maker = template(block.template)
    if not maker.accepts(bound.workload, layouts, device):
        raise UserError(
            f"The plan does not fit the model: template {block.template!r} does not serve block "
            f"{'+'.join(block.layers)} with layouts {layouts}.",
            code="bad-plan",
        )
    knobs = knobs_of(block, bound.workload, layouts, device) or {}
    if knobs not in maker.space(bound.workload, layouts, device):
        raise UserError(
            f"The plan does not fit the model: knobs {dict(knobs)} of block {'+'.join(block.layers)} are outside "
            f"the space of template {block.template!r}.",
            code="bad-plan",
        )
    return knobs


def kernel_of(block: Block, bound: Bound, plan: Plan, device: Device) -> Candidate:
    layouts = block_layouts(plan, block, bound)
    knobs = _check_block(block, bound, layouts, device)
    return candidate_of(bound.workload, layouts, block.template, knobs, block.cores)


def candidate_of(
    workload: Graph, layouts: Mapping[str, str], name: str, knobs: Mapping[str, int], cores: int
) -> Candidate:  # fmt: skip
    maker = template(name)
    return Candidate(workload.to_json(), workload.hash, layouts, name, maker.version, knobs, cores, maker.precision)


def _is_slice(graph: Graph, plan: Plan, block: Block) -> bool:
    """Whether a block is a Slice that can be read where its input lies, as planned."""
    layer = graph.by_id[block.layers[0]]
    layout = plan.layout(layer.outputs[0])
    source = block.reads.get(layer.inputs[0], plan.layout(layer.inputs[0]))
    return len(block.layers) == 1 and source == layout and in_place(graph, layer, layout)
