"""Several convolutions in one kernel against the same in a kernel each: ``python -m bench.chains``.

For every run of neighbouring blocks of the models' greedy plans that a template of CHAINS serves as one block: the
fastest call of each block alone, and of the chain, each the best of its templates' defaults and of the ``--tries``
knobs that the analytic expectation puts first. All kernels of all runs take turns, one call each, as in
``bench.kernels``; inputs are written just before, so that later blocks find their image in the cache.
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
CHAINS = ("conv_chain", "inverted_residual")  # templates, and the most blocks that one serves
MOST = 3


@dataclass(frozen=True)
class Chain:
    """Neighbouring blocks, in running order, and the block that does what all of them do."""

    model: str
    apart: tuple[Case, ...]
    whole: Case

    @property
    def about(self) -> str:
        return " -> ".join(map(_conv, self.apart))


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
    models = options.models.split(",")
    found = [c for model in models for c in chains_of(model, known_graph(model, options.out), device)]
    chains = [c for c in found if not options.only or any(part in c.about for part in options.only.split(","))]
    cases = [case for chain in chains for case in (*chain.apart, chain.whole)]
    best = iter(take_turns([[*field_of(case, device, options)] for case in cases], options.rounds, options.cores))
    for chain in chains:
        print(_line(chain, [next(best) for _ in chain.apart], next(best)), flush=True)
    return 0


def chains_of(model: str, graph: Graph, device: Device) -> Iterator[Chain]:
    """Distinct chains in the running order of their last block, short ones first."""
    from tuner.kernels.registry import BY_NAME
    from tuner.search.fusion import greedy

    plan, seen = greedy(graph, device, device.cores, deep=False), set()
    for last in plan.blocks:
        for blocks in _runs(graph, plan, last):
            read = {name: layout for block in blocks for name, layout in block.reads.items()}
            whole = Block(tuple(i for block in blocks for i in block.layers), last.cores, "", None, read)
            cases = [case_of(model, graph, plan, block) for block in (*blocks, whole)]
            key = json.dumps([case.workload.to_json() for case in cases])
            made = cases[-1]
            served = [n for n in CHAINS if BY_NAME[n].accepts(made.workload, made.layouts, device)]
            if key not in seen and served:
                seen.add(key)
                yield Chain(model, tuple(cases[:-1]), replace(made, template=served[0]))


def _runs(graph: Graph, plan: Plan, last: Block) -> Iterator[tuple[Block, ...]]:
    """Runs of at most MOST blocks, each of which reads the one before, that may be one block."""
    from tuner.plan.legality import why_illegal

    home = {layer: block for block in plan.blocks for layer in block.layers}
    runs: list[tuple[Block, ...]] = [(last,)]
    while runs:
        longer: list[tuple[Block, ...]] = []
        for run in runs:
            inputs = [n for i in run[0].layers for n in graph.by_id[i].inputs]
            read = {graph.producer[n].id for n in inputs if n in graph.producer}
            for first in dict.fromkeys(home[i].layers for i in sorted(read, key=graph.position.__getitem__)):
                if home[first[0]] not in run:
                    longer.append((home[first[0]], *run))
        yield from (r for r in longer if not why_illegal(graph, [i for block in r for i in block.layers]))
        runs = longer if longer and len(longer[0]) < MOST else []


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


def _line(chain: Chain, apart: Sequence[Mapping[str, float]], whole: Mapping[str, float]) -> str:
    """One row; the mappings hold seconds by contestant."""
    each = [min(found.values()) for found in apart]
    name = min(whole, key=lambda n: whole[n])
    default = next((s for n, s in whole.items() if n.startswith("default ")), float("nan"))
    return (
        f"{chain.model[:11]:11} {chain.about:58} apart {' + '.join(f'{s * 1e6:7.1f}' for s in each)} us, chain "
        f"{whole[name] * 1e6:7.1f} us, apart/chain {sum(each) / whole[name]:.2f} (default {sum(each) / default:.2f})  "
        f"{name}"
    )


def _conv(case: Case) -> str:
    """The convolution of a block: channels, sizes, kernel, stride."""
    w = case.workload
    conv = next(x for x in w.layers if x.op == "Conv")
    sides = ["x".join(map(str, w.tensors[n].shape[1:])) for n in (conv.inputs[0], conv.outputs[0])]
    kernel = "x".join(map(str, w.type_of(conv.inputs[1]).shape[2:]))
    each = w.type_of(conv.inputs[1]).shape[1]  # channels that an output channel reads
    kind = "conv" if conv.attr("group", 1) == 1 else "depthwise" if each == 1 else "grouped"
    return f"{kind}{kernel} {sides[0]}->{sides[1]}"


if __name__ == "__main__":
    sys.exit(main())
