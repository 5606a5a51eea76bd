"""Which blocks of a job in bf16 or int8 may compute so, and which begin that way before anything is measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod

from tuner.errors import UserError
from tuner.graph.ir import Graph, Layer
from tuner.plan import layout
from tuner.plan.bf16 import weights_of
from tuner.plan.plan import Plan
from tuner.plan.workload import workload_of
from tuner.precision import BF16, FP32, INT8, LOWERED, allowed_in, precision_of, twins_of

FEW = 16  # results per output channel up to which streaming the weights decides how long a layer takes


def computation(graph: Graph, layer: Layer) -> str:
    """Identity of what a layer computes, wherever it is: in a model, or in the workload of any block."""
    return workload_of(graph, [layer.id]).workload.hash


def precision_for(workload: Graph, precision: str, exact: Collection[str]) -> str:
    """What a block of a job in ``precision`` may use; ``exact``: computations that stay in float32."""
    if precision == FP32 or not exact:
        return precision
    weighty = (x for x in workload.layers if weights_of(workload, x) is not None)
    return FP32 if any(computation(workload, x) in exact for x in weighty) else precision


def streams(workload: Graph) -> bool:
    """Whether a block is bound by streaming its weights: each of them serves few results."""
    for layer in workload.layers:
        weights = weights_of(workload, layer)
        if weights is not None:
            results = workload.tensors[layer.outputs[0]].shape
            channels = results[1] if layer.op == "Conv" else results[-1]
            return prod(results) <= FEW * channels
    return False


def needless(workload: Graph, planned: str, served: Collection[str]) -> str | None:
    """The template that is not worth asking: one that widens weights where their products could be of bfloat16."""
    return LOWERED.get(planned) if _dotted(planned, served) and not streams(workload) else None


def twin(workload: Graph, planned: str, served: Collection[str]) -> str | None:
    """The template that a block begins with until anything is measured, where one that rounds is faster at sight.

    ``planned``: its template in float32; ``served``: those that may be used. Products of bfloat16 take half the time
    everywhere, and of 8-bit integers a quarter; weights that are widened before use pay where streaming them decides.
    """
    if dotted := _dotted(planned, served):
        return dotted
    return LOWERED[planned] if LOWERED.get(planned) in served and streams(workload) else None


def _dotted(planned: str, served: Collection[str]) -> str | None:
    """A template's twin that multiplies numbers of fewer bits, of those that may be used."""
    return next((name for name in twins_of(planned) if name in served), None)


def widened(plan: Plan) -> Plan:
    """The plan with no tensor stored as bfloat16."""

    def wide(layouts: Mapping[str, str]) -> dict[str, str]:
        return {name: layout.widened(stored) for name, stored in layouts.items()}

    return replace(plan.map(lambda block: replace(block, reads=wide(block.reads))), layouts=wide(plan.layouts))


def check_plan(plan: Plan, precision: str) -> None:
    """Raise UserError (``bad-plan``) when a plan computes or stores in a precision that was not asked for."""
    read = ((name, stored) for block in plan.blocks for name, stored in block.reads.items())
    for name, stored in (*plan.layouts.items(), *read):
        if precision != BF16 and layout.is_narrow(stored):
            raise UserError(
                f"The plan stores tensor {name!r} as bfloat16 (layout {stored}), and the job is in {precision}.",
                code="bad-plan", hint=f"Ask for --precision {BF16}, or change the layout.",
            )  # fmt: skip
    for block in plan.blocks:
        if precision_of(block.template) not in allowed_in(precision):
            needed = INT8 if precision_of(block.template) == INT8 else BF16
            what = "8-bit integers" if needed == INT8 else "bfloat16"
            raise UserError(
                f"The plan rounds weights of block {'+'.join(block.layers)} to {what} "
                f"(template {block.template}), and the job is in {precision}.",
                code="bad-plan", hint=f"Ask for --precision {needed}, or change the template.",
            )  # fmt: skip
