"""Errors of the cost model on blocks it has not seen: ``python -m bench.search.predictions``. All times are simulated.

The simulated device is calibrated with its default design, with noise. Then random blocks of each zoo model are
predicted on every core count and compared with the simulator's times without noise. Figures go to OUT/predictions.json;
``--render`` writes those into bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.search.spaces import zoo_graph
from bench.sections import write_section
from cost_model.block_model import BlockModel
from tuner.errors import InternalError
from tuner.graph import zoo
from tuner.graph.ir import Graph, Layer
from tuner.measure.device import devices
from tuner.plan.chains import AnyChain
from tuner.plan.space import plan_space
from tuner.search.blocks import block_rows, machine_of
from tuner.search.calibration import designed, examine, measure, train
from tuner.simulate.machine import times
from tuner.simulate.runner import runner_of
from tuner.simulate.spec import load
from tuner.types import Device

SECTION = "search:predictions"  # of bench/RESULTS.md
DEVICE = "sim:mlu100"
SEED = 0  # of the noise, the model and the draw
BLOCKS = 80  # of a model, at most
DEPTH = 4  # most layers of a block that are not elementwise
PAIRS = ((8, 9), (1, 32))  # core counts whose errors are compared


def run(device: Device, models: Sequence[str], out: Path) -> dict[str, Any]:
    """Calibrate, predict, compare."""
    with runner_of(device, SEED) as runner:
        samples = list(measure(list(designed(device)), runner))
    machine = machine_of(device)
    model, checked = train(samples, device, machine, SEED), examine(samples, device, machine)
    if checked is None:
        raise InternalError("The design has too few workloads.", code="bench-failed")
    found, every = dict[str, Any](), list[tuple[np.ndarray, np.ndarray]]()
    for name in models:
        error, std, blocks = errors(model, zoo_graph(name, out), device)
        every.append((error, std))
        found[name] = figures(error, std) | {"alike": alike(error), "worst": worst(error, blocks)}
        print(name, found[name], file=sys.stderr, flush=True)
    error, std = (np.concatenate(columns) for columns in zip(*every, strict=True))
    return {
        "device": device.name, "samples": len(samples), "held_out": checked.quality.to_json(), "models": found,
        "all": figures(error, std),
    }  # fmt: skip


def errors(model: BlockModel, graph: Graph, device: Device) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Predicted minus true log-seconds of random blocks and the deviation that came with each, both
    ``[blocks, cores]``; and each block's operators."""
    spec, cores = load(device.name), tuple(range(1, device.cores + 1))
    space = plan_space(graph, device, cores, AnyChain(DEPTH))
    drawn = np.random.default_rng(SEED).permutation(len(space.questions))[:BLOCKS]
    error, deviation, names = np.empty((len(drawn), len(cores))), np.empty((len(drawn), len(cores))), []
    for i, question in enumerate(int(q) for q in drawn):
        workload = space.workload(question)
        mean, deviation[i] = model.predict(block_rows(workload, cores, device, layouts=space.layouts(question)))
        error[i] = mean - np.log(times(spec, workload, cores))
        names.append(", ".join(_operator(layer) for layer in workload.layers))
    return error, deviation, names


def _operator(layer: Layer) -> str:
    groups = layer.attr("group", 1)
    return layer.op if groups == 1 else f"{layer.op} in {groups} groups"


def figures(error: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    """Shares of 1: errors of the time as such (``|predicted / true - 1|``), and how many the deviations hold."""
    off = np.abs(np.expm1(error))
    median, p90, p99 = (float(x) for x in np.percentile(off, (50, 90, 99)))
    within = [float(np.mean(np.abs(error) <= k * std)) for k in (1, 2)]
    return {"blocks": len(error), "median": median, "p90": p90, "p99": p99, "within_1_std": within[0],
            "within_2_std": within[1]}  # fmt: skip


def worst(error: np.ndarray, blocks: Sequence[str]) -> dict[str, Any]:
    """The block with the largest median error over core counts."""
    medians = np.median(np.abs(np.expm1(error)), axis=1)
    return {"block": blocks[int(medians.argmax())], "median": float(medians.max())}


def alike(error: np.ndarray) -> list[float]:
    """Pearson's correlation over blocks of the log-errors on two core counts, for each of PAIRS; errors as above."""
    return [float(np.corrcoef(error[:, a - 1], error[:, b - 1])[0, 1]) for a, b in PAIRS]


def table(data: Mapping[str, Any]) -> str:
    """The section of RESULTS.md; a zoo model without figures is marked."""
    models, held = data["models"], data["held_out"]
    lines = [
        "## Predictions on a simulated accelerator",
        "",
        f"Every time in this section is **simulated** (`{data['device']}`). `python -m bench.search.predictions`, then "
        f"`--render`. The cost model learned from {data['samples']} synthetic blocks of the default design, measured "
        "with noise; its predictions are compared with the simulator's times without noise, of at most "
        f"{BLOCKS} blocks of each model with up to {DEPTH} layers that are not elementwise, drawn at random, on every "
        "core count. No block of a model was measured.",
        "",
        "| model | blocks | median error | 90% below | 99% below | errors within one / two deviations | worst block, "
        "median over core counts |",
        "|:--|--:|--:|--:|--:|--:|:--|",
        *(_line(name, models.get(name)) for name in [*zoo.names(), *(n for n in models if n not in zoo.names())]),
        _line("all", data["all"]),
        "",
        f"On the synthetic blocks themselves, predicted by models that had not seen the workload (five folds): median "
        f"error {held['median_error']:.1%}, 90% below {held['p90_error']:.1%}, rank correlation of the rates "
        f"{held['rank_correlation']:.3f}.",
        "",
        "Correlation of a block's log-errors between two core counts, mean over models (least to most): "
        + "; ".join(_pair(pair, [m["alike"][i] for m in models.values()]) for i, pair in enumerate(PAIRS))
        + ".",
    ]
    return "\n".join(lines)


def _line(name: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return f"| {name} | missing | | | | | |"
    shares = [f"{found[key]:.1%}" for key in ("median", "p90", "p99")]
    within = f"{found['within_1_std']:.0%} / {found['within_2_std']:.0%}"
    bad = f"{found['worst']['median']:.0%}: {found['worst']['block']}" if "worst" in found else ""
    return f"| {name} | {found['blocks']} | {' | '.join(shares)} | {within} | {bad} |"


def _pair(pair: tuple[int, int], values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f}) between {pair[0]} and {pair[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search.predictions", description=__doc__)
    parser.add_argument("--models", default=",".join(zoo.names()), help="comma-separated; default: the whole zoo")
    parser.add_argument("--out", type=Path, default=Path("out/search"))
    parser.add_argument("--render", action="store_true", help="run nothing; write the figures into bench/RESULTS.md")
    options = parser.parse_args(arguments)
    file = options.out / "predictions.json"
    if options.render:
        write_section(SECTION, table(json.loads(file.read_text())))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    data = run(devices(DEVICE), options.models.split(","), options.out)
    file.write_text(json.dumps(data, indent=1) + "\n")
    print(table(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
