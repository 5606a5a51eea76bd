"""``fusetune plan``: layers and blocks as they would be built with default knobs. Nothing is measured."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from service.rules import check_cores, check_strategy
from tuner.errors import UserError
from tuner.types import Device

if TYPE_CHECKING:
    from tuner.graph.ir import Graph
    from tuner.graph.load import ImportedModel
    from tuner.plan.plan import Plan

UNMEASURED = ("greedy", "none")  # strategies of real devices whose plan follows without a measurement


def plan(args: argparse.Namespace) -> int:
    """The command. Raises UserError for strategies that have to measure before they have a plan."""
    from service.commands.spec import read_json
    from tuner.gpu.spec import check_not_gpu
    from tuner.graph.load import import_model
    from tuner.measure.device import devices
    from tuner.plan.legality import validate
    from tuner.plan.plan import Plan

    device = devices(args.device)
    check_not_gpu(device, "Planning")
    strategy = args.strategy or _unmeasured(device)[0]
    check_without_measuring(strategy, device)
    check_cores(args.cores, device)
    if args.plan and device.simulated:
        raise UserError("A simulated device searches its own plans; --plan is for real ones.", code="bad-plan")
    model = import_model(args.model, shapes=dict(args.shape), disabled=args.disable_pass)
    if args.plan:
        chosen = Plan.from_json(read_json(args.plan))
        validate(chosen, model.graph, device.cores)
    else:
        chosen = _planned(strategy, model.graph, device, args.cores)
    if args.json:
        print(json.dumps(chosen.to_json(), indent=1))
    else:
        _show(Console(), model, chosen, device)
    return 0


def check_without_measuring(strategy: str, device: Device) -> None:
    """Raise UserError for a strategy that the device does not know, or whose plan depends on measurements."""
    check_strategy(strategy, device.name)
    possible = _unmeasured(device)
    if strategy.partition(":")[0] not in possible:
        option = f" --device {device.name}" if device.simulated else ""
        raise UserError(
            f"The strategy {strategy} has no plan before it has measured; without measuring there are "
            f"{', '.join(possible)}.", code="needs-measuring",
            hint=f"Run `fusetune tune MODEL{option} --strategy {strategy}` and read the plan.json that it leaves.",
        )  # fmt: skip


def _unmeasured(device: Device) -> tuple[str, ...]:
    """Strategies that need no measurement on this device, the default one first."""
    from tuner.search.strategies import unmeasured

    return unmeasured.UNMEASURED if device.simulated else UNMEASURED


def _planned(strategy: str, graph: Graph, device: Device, cores: tuple[int, ...] | None) -> Plan:
    from tuner.plan.chains import deepest
    from tuner.plan.partition import to_plan
    from tuner.plan.space import plan_space
    from tuner.search.fusion import greedy, unfused
    from tuner.search.questions import core_counts
    from tuner.search.strategies.unmeasured import unmeasured

    counts = core_counts(cores, device)
    if device.simulated:
        space = plan_space(graph, device, counts, deepest(graph))
        return to_plan(space, unmeasured(space, strategy))
    return unfused(graph, device, 1) if strategy == "none" else greedy(graph, device, max(counts))


def _show(console: Console, model: ImportedModel, chosen: Plan, device: Device) -> None:
    from tuner.graph.costs import layer_cost, total_macs

    graph, blocks = model.graph, list(chosen.blocks)
    where = ", on a simulated device" if device.simulated else ""
    table = Table(title=f"{model.name}: {len(graph.layers)} layers in {len(blocks)} blocks, "
                        f"{total_macs(graph) / 1e9:.3f} GMACs, graph {graph.hash[:12]}{where}")  # fmt: skip
    for column in ("#", "layers", "output", "layout", "template", "cores", "MFLOP", "kB read + written"):
        table.add_column(column, justify="right" if column in {"#", "cores", "MFLOP", "kB read + written"} else "left")
    for number, block in enumerate(blocks, 1):
        costs = [layer_cost(graph, graph.by_id[i]) for i in block.layers]
        out = graph.by_id[block.layers[-1]].outputs[0]
        table.add_row(
            str(number), " ".join(block.layers), "x".join(map(str, graph.tensors[out].shape)), chosen.layout(out),
            block.template, str(block.cores), f"{sum(c.ops for c in costs) / 1e6:.2f}",
            f"{sum(c.bytes_read + c.bytes_written for c in costs) / 1e3:.1f}",
        )  # fmt: skip
    console.print(table)
    switched = ", ".join(f"{p.name}{'' if p.enabled else ' (off)'}" for p in model.passes)
    console.print(f"Cleaning passes: {switched}", highlight=False, soft_wrap=True)
