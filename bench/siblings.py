"""Convolutions that read one tensor, merged and each by itself: ``python -m bench.siblings``.

For every group that the pass merge-siblings merges in these models: the fastest call of the merged convolution, and the
sum of the fastest calls of those that it stands for, each the best of its templates' defaults and of the ``--tries``
knobs that the analytic expectation puts first. All kernels take turns, one call each, as in ``bench.kernels``; inputs
are written just before. The Slices behind a merged convolution are views and take no time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.chains import case_of, field_of
from bench.kernel_turns import take_turns
from bench.kernels import Case, known_graph
from tuner.plan.slices import SLICE
from tuner.types import Device

MODELS = ("inception_v1", "inception_v2")
PASS = "merge-siblings"


@dataclass(frozen=True)
class Group:
    """A merged convolution's block, and the blocks that it replaces."""

    model: str
    merged: Case
    apart: tuple[Case, ...]

    @property
    def about(self) -> str:
        w = self.merged.workload
        conv = next(x for x in w.layers if x.op == "Conv")
        channels = [next(x for x in c.workload.layers if x.op == "Conv") for c in self.apart]
        widths = "+".join(str(c.workload.tensors[x.outputs[0]].shape[1])
                          for c, x in zip(self.apart, channels, strict=True))  # fmt: skip
        kernel = "x".join(map(str, w.type_of(conv.inputs[1]).shape[2:]))
        return f"conv{kernel} {'x'.join(map(str, w.tensors[conv.inputs[0]].shape[1:]))}->{widths}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.siblings", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated names of bench.peers.models")
    parser.add_argument("--only", default="", help="parts of the printed names, comma-separated; default: every group")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--tries", type=int, default=4, help="knobs to try besides each template's default")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each kernel")
    parser.add_argument("--out", type=Path, default=Path("out/siblings"))
    options = parser.parse_args(arguments)
    os.environ["TVM_NUM_THREADS"] = str(options.cores)  # before TVM is loaded: it would count cores its own way
    from tuner.measure.device import detect_cpu

    device = replace(detect_cpu(), cores=options.cores)
    found = [g for model in options.models.split(",") for g in groups_of(model, options.out, device)]
    groups = [g for g in found if not options.only or any(part in g.about for part in options.only.split(","))]
    fields = [[*field_of(case, device, options)] for g in groups for case in (g.merged, *g.apart)]
    best = iter(take_turns(fields, options.rounds, options.cores))
    total = [0.0, 0.0]
    for group in groups:
        merged, *apart = (next(best) for _ in range(1 + len(group.apart)))
        print(_line(group, merged, apart), flush=True)
        total = [total[0] + min(merged.values()), total[1] + sum(min(each.values()) for each in apart)]
    if groups:
        print(f"all: merged {total[0] * 1e6:.1f} us, apart {total[1] * 1e6:.1f} us, {total[1] / total[0]:.2f}")
    return 0


def groups_of(model: str, out: Path, device: Device) -> Iterator[Group]:
    """Distinct groups in running order."""
    from tuner.search.fusion import greedy

    with_it, without = known_graph(model, out), known_graph(model, out, PASS)
    plans = [greedy(graph, device, device.cores) for graph in (with_it, without)]
    homes = [
        {o: block for block in plan.blocks for i in block.layers for o in graph.by_id[i].outputs}
        for graph, plan in zip((with_it, without), plans, strict=True)
    ]
    made, seen = {layer.outputs[0] for layer in with_it.layers if layer.op == SLICE} & homes[1].keys(), set()
    wider = dict.fromkeys(layer.inputs[0] for layer in with_it.layers if layer.outputs[0] in made)
    for tensor in wider:
        slices = [c.outputs[0] for c in with_it.consumers[tensor]]
        merged = case_of(model, with_it, plans[0], homes[0][tensor])
        apart = tuple(case_of(model, without, plans[1], homes[1][n]) for n in slices)
        key = json.dumps([case.workload.to_json() for case in (merged, *apart)])
        if key not in seen:
            seen.add(key)
            yield Group(model, merged, apart)


def _line(group: Group, merged: Mapping[str, float], apart: Sequence[Mapping[str, float]]) -> str:
    """One row; the mappings hold seconds by contestant."""
    name = min(merged, key=lambda n: merged[n])
    each = [min(a.values()) for a in apart]
    text = " + ".join(f"{seconds * 1e6:.1f}" for seconds in each)
    return (
        f"{group.model[:12]:12} {group.about:44} apart {text} us, merged {merged[name] * 1e6:.1f} us, "
        f"apart/merged {sum(each) / merged[name]:.2f}  {name}"
    )


if __name__ == "__main__":
    sys.exit(main())
