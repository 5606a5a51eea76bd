"""Which knobs of which synthetic kernels to try, so that the search for knobs knows a device before its first job.

A calibration measures blocks with default knobs: that says how long a block takes, and nothing about knobs. Here single
layers of the same design are measured with a few points of their knob spaces each, drawn at random: many kernels teach
more about the next one than many points of one kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from random import Random

from cost_model.synthetic import BlockDesign, design
from tuner.graph.ir import Graph
from tuner.kernels.base import Space
from tuner.kernels.registry import serving, template
from tuner.precision import FP32
from tuner.search.calibration import served
from tuner.search.examination import Figures, examine_knobs
from tuner.search.knobs import LISTED, KnobSearch
from tuner.types import Candidate, Device, Trial

KERNELS = 64  # synthetic layers
POINTS = 12  # of each template that serves one: its default, and others at random
KINDS = ("conv", "depthwise", "dense")  # of which layers have knobs worth learning
FEWEST_OPS, MOST_OPS = 1 << 22, 1 << 30  # of a layer: about 50 us to 10 ms on a core
_SPARE = 12  # designs drawn for each that is wanted: most have several layers, or too much to do


def layers(device: Device, kernels: int = KERNELS) -> list[BlockDesign]:
    """Single layers on all cores that some template serves, best first."""
    found = design((device.cores,), _SPARE * max(kernels, KERNELS), KINDS)  # so that more begin with the same
    fair = (b for b in found if b.depth == 1 and FEWEST_OPS <= b.ops <= MOST_OPS)
    return list(islice((b for b in fair if served(b, device) is not None), kernels))


def candidates(device: Device, kernels: int = KERNELS, points: int = POINTS) -> Iterator[Candidate]:
    """What to measure, layer by layer."""
    for block in layers(device, kernels):
        yield from _of_layer(block, device, points)


def _of_layer(block: BlockDesign, device: Device, points: int) -> Iterator[Candidate]:
    """Some points of every template that serves the layer with the layouts that it likes best."""
    found = served(block, device)
    if found is None:
        return
    workload, layouts, _ = found
    for maker in serving(workload, layouts, device):
        space = maker.space(workload, layouts, device)
        if not 1 < space.bound <= LISTED:
            continue
        for knobs in _drawn(space, points, Random(f"{block} {maker.name}")):
            yield Candidate(
                workload=workload.to_json(), workload_hash=workload.hash, layouts=layouts, template=maker.name,
                template_version=maker.version, knobs=knobs, cores=device.cores, precision=FP32,
            )  # fmt: skip


def _drawn(space: Space, count: int, random: Random) -> list[dict[str, int]]:
    """The default and others, each once."""
    others = [dict(p) for p in space.points if p != space.default]
    return [dict(space.default), *random.sample(others, min(count - 1, len(others)))]


def examine(trials: Iterable[Trial], device: Device) -> Figures:
    """How well the knob model predicts kernels that it has not seen, judged on these trials."""
    searches: dict[str, KnobSearch] = {}
    for trial in trials:
        candidate = trial.candidate
        if candidate.record_key not in searches:
            workload = Graph.from_json(candidate.workload)
            space = template(candidate.template).space(workload, candidate.layouts, device)
            searches[candidate.record_key] = KnobSearch(candidate, workload, space, device)
        searches[candidate.record_key].tell(trial)
    return examine_knobs(searches.values())
