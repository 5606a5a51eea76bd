"""Two convolutions in one kernel against the same two in a kernel each: ``python -m bench.chains``.

For every pair of neighbouring blocks of the models' greedy plans that the template conv_chain serves as one: the
fastest call of the first block, of the second, and of the chain, each the best of its templates' defaults and of the
``--tries`` knobs that the analytic expectation puts first. All kernels of all pairs take turns, one call each, as in
``bench.kernels``; inputs are written just before, so the second block finds its image in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.kernel_turns import Contestant, take_turns
from bench.kernels import Case, built, known_graph
from tuner.graph.ir import Graph
from tuner.plan.plan import Block, Plan
from tuner.types import Device

MODELS = ("mobilenetv2", "resnet50")
CHAIN = "conv_chain"


@dataclass(frozen=True)
class Pair:
    """Two neighbouring blocks and the block that does both."""

    model: str
    first: Case
    second: Case
    both: Case

    @property
    def about(self) -> str:
        return f"{_conv(self.first)} -> {_conv(self.second)}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chains", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="names of the zoo, comma-separated")
    parser.add_argument("--only", default="", help="parts of the printed names, comma-separated; default: every pair")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--tries", type=int, default=4, help="knobs to try besides each template's default")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each kernel")
    parser.add_argument("--out", type=Path, default=Path("out/chains"))
    options = parser.parse_args(arguments)
    os.environ["TVM_NUM_THREADS"] = str(options.cores)  # before TVM is loaded: it would count cores its own way
    from tuner.measure.device import detect_cpu

    device = replace(detect_cpu(), cores=options.cores)
    found = [p for model in options.models.split(",") for p in pairs_of(model, known_graph(model, options.out), device)]
    pairs = [p for p in found if not options.only or any(part in p.about for part in options.only.split(","))]
    fields = [[*field_of(case, device, options)] for p in pairs for case in (p.first, p.second, p.both)]
    best = take_turns(fields, options.rounds, options.cores)
    for i, pair in enumerate(pairs):
        print(_line(pair, *best[3 * i : 3 * i + 3]), flush=True)
    return 0


def pairs_of(model: str, graph: Graph, device: Device) -> Iterator[Pair]:
    """Distinct pairs in running order."""
    from tuner.kernels.registry import template
    from tuner.plan.legality import why_illegal
    from tuner.search.fusion import greedy

    plan, seen = greedy(graph, device, device.cores), set()
    home = {layer: block for block in plan.blocks for layer in block.layers}
    for second in plan.blocks:
        read = {graph.producer[n].id for i in second.layers for n in graph.by_id[i].inputs if n in graph.producer}
        for first in dict.fromkeys(home[i].layers for i in sorted(read, key=graph.position.__getitem__)):
            before = home[first[0]]
            both = Block((*first, *second.layers), second.cores, CHAIN, None, {**before.reads, **second.reads})
            if before is second or why_illegal(graph, both.layers):
                continue
            cases = [case_of(model, graph, plan, block) for block in (before, second, both)]
            key = json.dumps([case.workload.to_json() for case in cases])
            if key not in seen and template(CHAIN).accepts(cases[2].workload, cases[2].layouts, device):
                seen.add(key)
                yield Pair(model, *cases)


def case_of(model: str, graph: Graph, plan: Plan, block: Block) -> Case:
    from tuner.build.blocks import block_layouts
    from tuner.plan.workload import workload_of

    bound = workload_of(graph, block.layers)
    return Case(model, bound.workload, block_layouts(plan, block, bound), block.template)


def field_of(case: Case, device: Device, options: argparse.Namespace) -> Iterator[Contestant]:
    """Kernels for one block: every template's default and the knobs that are expected to be fast."""
    from tuner.kernels.registry import serving
    from tuner.search.features import Features

    for maker in serving(case.workload, case.layouts, device):
        space = maker.space(case.workload, case.layouts, device)
        expected = Features(case.workload, maker.name, device.cores, device).expected(space.points)
        order = sorted(range(len(space.points)), key=lambda i: (float(expected[i]), i))
        tried = [dict(space.default), *(p for i in order[: options.tries] if (p := space.points[i]) != space.default)]
        for knobs in tried:
            kernel = built(replace(case, template=maker.name), knobs, device, options.out, rebuild=True)
            if kernel:
                default = "default " if knobs == dict(space.default) else ""
                yield Contestant(f"{default}{maker.name} {json.dumps(knobs)}", kernel)


def _line(pair: Pair, first: Mapping[str, float], second: Mapping[str, float], both: Mapping[str, float]) -> str:
    """One row; the mappings hold seconds by contestant."""
    apart = min(first.values()) + min(second.values())
    name = min(both, key=lambda n: both[n])
    default = next((s for n, s in both.items() if n.startswith("default ")), float("nan"))
    return (
        f"{pair.model[:11]:11} {pair.about:58} apart {min(first.values()) * 1e6:7.1f} + "
        f"{min(second.values()) * 1e6:7.1f} us, chain {both[name] * 1e6:7.1f} us, apart/chain "
        f"{apart / both[name]:.2f} (default {apart / default:.2f})  {name}"
    )


def _conv(case: Case) -> str:
    """The convolution of a block: channels, sizes, kernel, stride."""
    w = case.workload
    conv = next(x for x in w.layers if x.op == "Conv")
    sides = ["x".join(map(str, w.tensors[n].shape[1:])) for n in (conv.inputs[0], conv.outputs[0])]
    kernel = "x".join(map(str, w.type_of(conv.inputs[1]).shape[2:]))
    kind = "depthwise" if conv.attr("group", 1) > 1 else "conv"
    return f"{kind}{kernel} {sides[0]}->{sides[1]}"


if __name__ == "__main__":
    sys.exit(main())
