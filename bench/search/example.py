"""The worked example of docs/search.md, drawn: ``python -m bench.search.example``. Every time in it is simulated.

The first layers of ResNet-18 on sim:mlu100, calibrated: all blocks they can be cut into, what was predicted of each
before the search, what was measured, and which plan won.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import log
from pathlib import Path

import numpy as np

from bench.search.calibrated import Calibrations
from bench.search.spaces import zoo_graph
from cost_model.block_model import BlockModel
from tuner.graph.ir import Graph
from tuner.measure.device import devices
from tuner.plan.chains import AnyChain
from tuner.plan.partition import Choice, best_partition
from tuner.plan.space import PlanSpace, plan_space
from tuner.plan.workload import workload_of
from tuner.search.blocks import machine_of
from tuner.search.kriging import corrected
from tuner.search.predictor import BlockPredictor
from tuner.search.samples import Samples
from tuner.search.strategies.base import State
from tuner.search.strategies.registry import strategy
from tuner.simulate.machine import noisy
from tuner.simulate.runner import table
from tuner.simulate.spec import load
from tuner.types import Device

DRAWING = Path(__file__).parents[2] / "docs" / "search-example.svg"
LAYERS = 8  # of the model, from its beginning
BATCH = 16
NAMES = 66  # pixels of a layer's column
LEFT, TOP, ROW, AXIS = 16, 112, 21, 330


@dataclass
class Story:
    """What happened in one search."""

    space: PlanSpace
    truth: np.ndarray  # noise-free seconds [questions, cores]
    mean: np.ndarray  # log-seconds as predicted before anything was measured [questions, cores]
    std: np.ndarray
    seconds: np.ndarray  # as measured; NaN = not
    choice: Choice
    rounds: list[int] = field(default_factory=list)  # evaluations measured in each

    @staticmethod
    def of(graph: Graph, device: Device, samples: tuple[np.ndarray, np.ndarray], seed: int = 0) -> Story:
        """Search the graph with joint until it wants no more."""
        spec = load(device.name)
        space = plan_space(graph, device, tuple(range(1, device.cores + 1)), AnyChain())
        truth = table(spec, space)
        predictor = BlockPredictor(space, BlockModel(machine_of(device), seed), Samples.of(*samples))
        state = State(space, seed, predictor=predictor)
        mean, std = state.predicted
        searching, rounds = strategy("joint"), []
        while wanted := searching.propose(state, BATCH):
            state.tell((e, float(np.median(noisy(float(truth[e]), spec, str(e), seed)))) for e in wanted)
            rounds.append(len(wanted))
        return Story(space, truth, mean, std, state.seconds, searching.choose(state), rounds)


def drawing(story: Story) -> str:
    """The blocks as bars over the layers that they hold, with an axis of times beside them."""
    space, layers = story.space, story.space.graph.layers
    order = sorted(range(len(space.blocks)), key=lambda b: (len(space.blocks[b].layers), space.blocks[b].sink))
    start = LEFT + NAMES * len(layers) + 20
    width, foot = start + AXIS + 200, TOP + ROW * len(order)
    low = float(np.exp(story.mean.min(axis=1) - 3 * story.std.min(axis=1)).min()) * 0.9
    high = float(np.exp(story.mean.min(axis=1)).max()) * 1.15

    def across(seconds: float) -> float:
        return start + AXIS * log(min(max(seconds, low), high) / low) / log(high / low)

    oracle = best_partition(space, story.truth).seconds
    found = sum(story.truth[space.blocks[b].question, space.cores.index(c)]
                for b, c in zip(story.choice.blocks, story.choice.cores, strict=True))  # fmt: skip
    known = int((~np.isnan(story.seconds)).sum())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {foot + 44}" font-family="sans-serif" '
        'font-size="11.5" role="img"><title>How joint chose a plan for the first layers of ResNet-18, simulated</title>'
        f'<rect width="{width}" height="{foot + 44}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="14">The first {len(layers)} layers of ResNet-18 on a simulated MLU100: '
        f"{len(space.blocks)} blocks, {len(space.questions)} of them different, x {len(space.cores)} core counts = "
        f"{space.evaluations:,} evaluations; {known} measured in {len(story.rounds)} rounds</text>",
        f'<text x="{LEFT}" y="42">The plan found: {found * 1e6:.1f} us; the best of all plans: {oracle * 1e6:.1f} us '
        "(both without noise).</text>",
        *_legend(58),
    ]
    parts.append(f'<text x="{start + AXIS + 12}" y="{TOP - 10}">predicted → measured</text>')
    for i, layer in enumerate(layers):
        x = LEFT + NAMES * i + NAMES / 2
        parts.append(f'<text x="{x}" y="{TOP - 10}" text-anchor="middle" font-size="11">{escape(layer.op)}</text>')
    for value in (10, 20, 50, 100, 200, 500):
        if low < value * 1e-6 < high:
            x = across(value * 1e-6)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{foot}" stroke="#e4e4e4"/>')
            parts.append(f'<text x="{x:.1f}" y="{foot + 16}" text-anchor="middle">{value} us</text>')
    parts.append(f'<text x="{start}" y="{foot + 34}" fill="#666">seconds on the best core count (logarithmic)</text>')
    for number, block in enumerate(order):
        parts += _block(story, block, TOP + ROW * number, across, start + AXIS + 12)
    return "\n".join([*parts, "</svg>\n"])


def _block(story: Story, index: int, y: float, across: object, text: float) -> list[str]:
    assert callable(across)
    space, block = story.space, story.space.blocks[index]
    q, won = block.question, index in story.choice.blocks
    seconds, mean = story.seconds[q], story.mean[q]
    measured = bool((~np.isnan(seconds)).any())
    colour = "#0b6e4f" if won else "#6fa8dc" if measured else "#d5d8df"
    places = [i for i in range(len(space.graph.layers)) if block.mask >> i & 1]
    parts = [
        f'<line x1="{LEFT + NAMES * places[0] + NAMES / 2}" x2="{LEFT + NAMES * places[-1] + NAMES / 2}" '
        f'y1="{y + 10}" y2="{y + 10}" stroke="{colour}" stroke-width="2"/>'
    ]
    parts += [
        f'<rect x="{LEFT + NAMES * i + 3}" y="{y + 3}" width="{NAMES - 6}" height="{ROW - 7}" rx="3" fill="{colour}"/>'
        for i in places
    ]
    best = int(mean.argmin())
    expected, std = float(np.exp(mean[best])), float(story.std[q, best])
    parts.append(f'<line x1="{across(expected * np.exp(-3 * std)):.1f}" x2="{across(expected * np.exp(3 * std)):.1f}" '
                 f'y1="{y + 10}" y2="{y + 10}" stroke="#999" stroke-width="3" stroke-opacity="0.5"/>')  # fmt: skip
    parts.append(f'<line x1="{across(expected):.1f}" x2="{across(expected):.1f}" y1="{y + 4}" y2="{y + 16}" '
                 'stroke="#555" stroke-width="2"/>')  # fmt: skip
    words = f"{expected * 1e6:.1f}"
    if measured:
        known, _ = corrected(story.mean, story.std, story.seconds, space.cores)
        if won:
            place = story.choice.blocks.index(index)
            at = space.cores.index(story.choice.cores[place])
        else:
            at = int(np.where(np.isnan(seconds), np.inf, known[q]).argmin())
        parts.append(f'<circle cx="{across(float(seconds[at])):.1f}" cy="{y + 10}" r="4" fill="{colour}"/>')
        words += f" → {seconds[at] * 1e6:.1f} us on {space.cores[at]} cores"
    weight = ' font-weight="bold"' if won else ""
    parts.append(f'<text x="{text}" y="{y + 14}"{weight}>{words}</text>')
    return parts


def _legend(y: float) -> list[str]:
    parts, x = [], float(LEFT)
    for colour, words in (("#0b6e4f", "in the plan found"), ("#6fa8dc", "measured"), ("#d5d8df", "predicted only")):
        parts.append(f'<rect x="{x}" y="{y}" width="14" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="{y + 10}">{words}</text>')
        x += 150
    parts.append(f'<text x="{x}" y="{y + 10}">tick and grey line: predicted before the search, 3 standard deviations '
                 "either way; dot: measured</text>")  # fmt: skip
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search.example", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/search"), help="where calibrations and models are kept")
    options = parser.parse_args(arguments)
    device, graph = devices("sim:mlu100"), zoo_graph("resnet18", options.out)
    start = workload_of(graph, tuple(layer.id for layer in graph.layers[:LAYERS])).workload
    story = Story.of(start, device, Calibrations(device, options.out).of(0))
    DRAWING.write_text(drawing(story))
    print(f"rounds of {story.rounds} evaluations; plan of {len(story.choice.blocks)} blocks", file=sys.stderr)
    for b, c in zip(story.choice.blocks, story.choice.cores, strict=True):
        print([story.space.graph.by_id[i].op for i in story.space.blocks[b].layers], c, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
