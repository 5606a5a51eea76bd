"""Kernels of known models against the roof and ONNX Runtime: ``python -m bench.kernels``.

For every distinct block of the models' greedy plans: GFLOP/s (or GB/s, where hardly anything is computed) of the
template's default and of the best of the ``--tries`` knobs that the analytic expectation puts first, in percent of
this machine's peak, and how often ONNX Runtime's time for the same layers holds ours. All contestants take turns, one
call each, and the fastest call counts, so that neighbours disturb little; caches are as in a running model, because the
other blocks run in between. What was built stays in ``--out``; ``--against`` takes such a folder of an earlier run and
lets its default kernels take part as "before". With ``--precision bf16`` the same kernels with weights in bfloat16 take
part in the same turns, and the row says how often the fastest in float32 holds the fastest in bf16; with ``--precision
int8`` so do those of 8-bit integers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.kernel_turns import Contestant, take_turns
from tuner.errors import CandidateError
from tuner.graph.costs import layer_cost
from tuner.graph.ir import Graph
from tuner.precision import BF16, FP32, INT8, LOWERED, PRECISIONS, QUANTISED
from tuner.types import Candidate, Device

MODELS = ("resnet50", "squeezenet", "bvlc_alexnet", "inception_v1", "shufflenet", "mobilenetv2")
COMPUTING = 8.0  # operations per byte moved, from which a block is measured by what it computes


@dataclass(frozen=True)
class Case:
    """One block of a model: its workload, the layouts that the greedy plan gives it, and its template."""

    model: str
    workload: Graph
    layouts: Mapping[str, str]
    template: str

    @property
    def operations(self) -> float:
        return float(sum(layer_cost(self.workload, layer).ops for layer in self.workload.layers))

    @property
    def moved(self) -> float:
        """Bytes of inputs, constants and outputs, each once."""
        w = self.workload
        return float(sum(w.type_of(n).bytes for n in (*w.inputs, *w.constants, *w.outputs)))

    @property
    def about(self) -> str:
        """Template, the first layer's shapes, kernel, stride and groups, and how many layers there are."""
        layer = self.workload.layers[0]
        sides = [self.workload.type_of(n).shape for n in (layer.inputs[0], layer.outputs[0])]
        text = f"{self.template} {'->'.join('x'.join(map(str, shape[1:])) for shape in sides)}"
        if layer.op == "Conv":
            text += f" k{'x'.join(map(str, self.workload.type_of(layer.inputs[1]).shape[2:]))}"
        else:
            text += f" {layer.op} k{layer.attr('kernel_shape', ())}"
        text += f" s{layer.attr('strides', (1, 1))[0]}"
        group = layer.attr("group", 1)
        return text + (f" g{group}" if group > 1 else "") + f" +{len(self.workload.layers) - 1}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated names of bench.peers.models")
    parser.add_argument("--only", default="", help="parts of the printed names, comma-separated; default: every block")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--tries", type=int, default=0, help="knobs to try besides the default, per block")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each contestant")
    parser.add_argument("--out", type=Path, default=Path("out/kernels"))
    parser.add_argument("--against", type=Path, help="the --out of an earlier run")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=FP32, help="bf16, int8: beside float32, not in its place"
    )
    options = parser.parse_args(arguments)
    os.environ["TVM_NUM_THREADS"] = str(options.cores)  # before TVM is loaded: it would count cores its own way
    from tuner.measure.device import detect_cpu
    from tuner.measure.roof import measure_roof

    device = replace(detect_cpu(), cores=options.cores)
    roof = measure_roof(device)
    print(f"peak {roof.flops / 1e9:.0f} GFLOP/s, memory {roof.bandwidth / 1e9:.1f} GB/s, cores {options.cores}")
    cases = [c for c in _cases(options.models.split(","), options.out, device) if _wanted(c, options.only)]
    fields = [_field(case, device, options.out, options.tries, options.against) for case in cases]
    if options.precision != FP32:
        for case, field in zip(cases, fields, strict=True):
            field += _lowered(case, device, options.out, options.tries, options.precision)
    for case, best in zip(cases, take_turns(fields, options.rounds, options.cores), strict=True):
        print(_line(case, best, roof.flops, roof.bandwidth), flush=True)
    return 0


def _wanted(case: Case, only: str) -> bool:
    return not only or any(part in case.about for part in only.split(","))


def _cases(models: Sequence[str], out: Path, device: Device) -> list[Case]:
    """Distinct blocks with a template, in the order of models and layers."""
    from tuner.build.blocks import block_layouts
    from tuner.kernels.registry import BY_NAME
    from tuner.plan.workload import workload_of
    from tuner.search.fusion import greedy

    found: dict[str, Case] = {}
    for model in models:
        graph = known_graph(model, out)
        plan = greedy(graph, device, device.cores)
        for block in plan.blocks:
            if block.template in BY_NAME:
                bound = workload_of(graph, block.layers)
                layouts = block_layouts(plan, block, bound)
                found.setdefault(
                    json.dumps([bound.workload.to_json(), layouts]),
                    Case(model, bound.workload, layouts, block.template),
                )
    return list(found.values())


def known_graph(model: str, out: Path, *disabled: str) -> Graph:
    """The model, cleaned without the ``disabled`` passes, kept in ``out`` as JSON."""
    from bench.peers import models
    from tuner.graph.load import import_model

    kept = out / "graphs" / f"{'-without-'.join((model, *disabled))}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        path = models.write(model, kept.with_suffix(".onnx"))
        kept.write_text(json.dumps(import_model(path, disabled=disabled).graph.to_json()))
        path.unlink()
    return Graph.from_json(json.loads(kept.read_text()))


def _field(case: Case, device: Device, out: Path, tries: int, against: Path | None) -> list[Contestant]:
    """The contestants for one block: "default", "before", the knobs tried, and ONNX Runtime."""
    from tuner.kernels.registry import template

    field = _kernels(case, device, out, tries)
    default = dict(template(case.template).space(case.workload, case.layouts, device).default)
    if against and (before := built(case, default, device, against, rebuild=False)):
        field.append(Contestant("before", before))
    return [*field, Contestant("onnxruntime", None, case.workload)]


def _lowered(case: Case, device: Device, out: Path, tries: int, precision: str) -> list[Contestant]:
    """The block's kernels with weights in bfloat16, or of 8-bit integers, their names begun with the precision.

    None where it has no such twin.
    """
    from tuner.kernels.registry import template

    twins = QUANTISED.get(case.template, ()) if precision == INT8 else (LOWERED.get(case.template),)
    serving = (t for t in twins if t is not None and template(t).accepts(case.workload, case.layouts, device))
    twin = next(serving, None)
    if twin is None:
        return []
    found = _kernels(replace(case, template=twin), device, out, tries)
    return [replace(each, name=f"{precision} {each.name}") for each in found]


def _kernels(case: Case, device: Device, out: Path, tries: int) -> list[Contestant]:
    """The template's default, called so, and the ``tries`` knobs that the analytic expectation puts first."""
    from tuner.kernels.registry import template
    from tuner.search.features import Features

    space = template(case.template).space(case.workload, case.layouts, device)
    default = dict(space.default)
    knobs = [default]
    if tries and len(space.points) > 1:
        expected = Features(case.workload, case.template, device.cores, device).expected(space.points)
        knobs += [p for _, p in sorted(zip(expected, space.points, strict=True), key=lambda pair: pair[0])][:tries]
    field = []
    for k in knobs:
        name = "default" if k is default else json.dumps(k)
        kernel = built(case, k, device, out, rebuild=True)
        if kernel and (k is default or k != default):
            field.append(Contestant(name, kernel))
    return field


def built(case: Case, knobs: Mapping[str, int], device: Device, folder: Path, *, rebuild: bool) -> Any:
    """A kernel in ``folder``, built if ``rebuild``; None if it is refused or not there.

    Defaults are found again by their block alone: another version may have others.
    """
    from tuner.build.binary import KernelBinary
    from tuner.build.kernel import build_kernel
    from tuner.kernels.registry import template
    from tuner.types import digest

    maker, canonical = template(case.template), case.workload.to_json()
    default = dict(maker.space(case.workload, case.layouts, device).default) == dict(knobs)
    chosen = "default" if default else sorted(knobs.items())
    stem = folder / digest([canonical, sorted(case.layouts.items()), case.template, chosen, device.cores])[:24]
    library, facts = stem.with_suffix(".so").absolute(), stem.with_suffix(".json")
    if not rebuild:
        return KernelBinary.from_json(json.loads(facts.read_text())) if facts.exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    candidate = Candidate(
        canonical, digest(canonical), case.layouts, case.template, maker.version, knobs, device.cores, maker.precision
    )  # fmt: skip
    try:
        built = build_kernel(candidate, device, library)
    except CandidateError as error:
        print(f"{case.about}: {dict(knobs)}: {error}", file=sys.stderr)
        return None
    facts.write_text(json.dumps(built.to_json()))
    return built


def _line(case: Case, best: Mapping[str, float], flops: float, bandwidth: float) -> str:
    """One row; ``best`` is seconds by contestant."""
    computing = case.operations >= COMPUTING * case.moved
    work, most, unit = (case.operations, flops, "GFLOP/s") if computing else (case.moved, bandwidth, "GB/s")

    def share(seconds: float) -> str:
        return f"{work / seconds / 1e9:6.1f} {unit} {work / seconds / most:4.0%}"

    lowered = {name: s for name, s in best.items() if name.startswith((BF16, INT8))}
    ours = {name: s for name, s in best.items() if name not in ("onnxruntime", "before") and name not in lowered}
    cells = [f"{case.model[:10]:10} {case.about:52}"]
    if "default" in best:
        cells.append(f"{best['default'] * 1e6:8.1f} us {share(best['default'])}")
        if "before" in best:
            cells.append(f"before/now {best['before'] / best['default']:.2f}")
        if "onnxruntime" in best:
            cells.append(f"ort/ours {best['onnxruntime'] / best['default']:.2f}")
    if len(ours) > 1:
        name = min(ours, key=lambda n: ours[n])
        cells.append(f"best {share(ours[name])} {name}")
    if lowered and ours:
        name = min(lowered, key=lambda n: lowered[n])
        cells.append(
            f"fp32/{name.split()[0]} {min(ours.values()) / lowered[name]:.2f} ({lowered[name] * 1e6:.1f} us, {name})"
        )
    return "  ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
