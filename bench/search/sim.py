"""Strategies against the oracle on a simulated device: ``python -m bench.search.sim``. Every time in it is simulated.

Each model is searched by each strategy with each seed. What a search measures is answered by the simulated machine with
its noise; how good its plan is, is judged without noise, against the best plan under the table of all evaluations. One
JSON line per (model, strategy, seed) goes to OUT/sim.jsonl as soon as it is known; rows that are there, or in the
repository, are not run again (``--anew``: only OUT's count). ``--render`` writes the tables into bench/RESULTS.md, the
plots into docs/ from what there is, and all rows into the repository.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.lines import append, keep, read
from bench.search.calibrated import Calibrations
from bench.search.progress import follow, row
from bench.search.spaces import SimSpace, sim_space
from bench.search.tables import SEEDLESS, render
from cost_model.block_model import BlockModel
from tuner.measure.device import devices
from tuner.search.blocks import machine_of
from tuner.search.predictor import BlockPredictor
from tuner.search.samples import Samples
from tuner.search.strategies.registry import strategy
from tuner.types import Device

MODELS = ("resnet18", "resnet50", "vgg19", "bvlc_alexnet", "mobilenetv2", "squeezenet", "inception_v1")
DEPTHS = {"inception_v1": 8}  # most heavy layers in a block, where all blocks would be too many
CALIBRATED = ("joint", "dlfusion")
STRATEGIES = ("joint", "dlfusion", *SEEDLESS, "cores-layers", "cores-greedy", "cores-all", "joint-cold", "random",
              "tpe")  # fmt: skip
SHARE, FEWEST, MORE = 0.01, 40, 4  # joint's part of the evaluations, but so many; and what random and tpe get of that

RECORDED_DEVICE = "sim:mlu100"
RECORDED = Path(__file__).parent / "sim-mlu100.jsonl.gz"  # rows that the tables in RESULTS.md are made of

Key = tuple[str, str, int]  # model, strategy, seed


def wanted(models: Sequence[str], strategies: Sequence[str], seeds: int) -> Iterator[Key]:
    """The rows of the bench: strategy by strategy, all models with one seed before the next."""
    for name in strategies:
        for seed in range(1 if name in SEEDLESS else seeds):
            for model in models:
                yield model, name, seed


def read_rows(lines: Path) -> dict[Key, dict[str, Any]]:
    """Rows by key."""
    return {(row["model"], row["strategy"], row["seed"]): row for row in read(lines)}


def budget_of(name: str, evaluations: int) -> int | None:
    """Evaluations that a strategy may measure; None = all that it wants."""
    share = max(FEWEST, int(SHARE * evaluations))
    return share if name.startswith("joint") else MORE * share if name in ("random", "tpe") else None


def run_one(space: SimSpace, name: str, seed: int, calibrations: Calibrations) -> dict[str, Any]:
    """One search."""
    device = calibrations.device
    samples = Samples.of(*calibrations.of(seed)) if name in CALIBRATED else None
    model = BlockModel(machine_of(device), seed)
    predictor = BlockPredictor(space.plans, model, samples, _features=space.features)
    budget = budget_of(name, space.plans.evaluations)
    done = follow(space, strategy(name.removesuffix("-cold")), seed, budget, predictor)
    calibrated = 0 if samples is None else len(samples)
    return row(space, done, unoptimised(space), budget) | {"calibration": calibrated}


def unoptimised(space: SimSpace) -> float:
    """True seconds of every layer alone on one core."""
    alone = (space.plans.block_of[frozenset({layer.id})][0] for layer in space.plans.graph.layers)
    return float(sum(space.table[space.plans.blocks[b].question, 0] for b in alone))


def known(device: str, out: Path, *, anew: bool = False) -> dict[Key, dict[str, Any]]:
    """The rows of OUT, and for the device that the repository has rows of, those, unless ``anew``."""
    recorded = {} if anew or device != RECORDED_DEVICE else read_rows(RECORDED)
    return recorded | read_rows(out / "sim.jsonl")


def run(device: Device, keys: Sequence[Key], out: Path, done: Collection[Key]) -> None:
    """Run what is not done; a model's space is loaded when its first row is, and kept."""
    lines, spaces, calibrations = out / "sim.jsonl", dict[str, SimSpace](), Calibrations(device, out)
    for key in keys:
        if key in done:
            continue
        model, name, seed = key
        if model not in spaces:
            spaces[model] = sim_space(model, device, out, DEPTHS.get(model))
        found = {"model": model, "strategy": name, "seed": seed} | run_one(spaces[model], name, seed, calibrations)
        append(lines, found)
        print(_line(found), file=sys.stderr, flush=True)


def _line(found: Mapping[str, Any]) -> str:
    return (
        f"{found['model']:13} {found['strategy']:12} {found['seed']:2}  {found['percent']:6.2f}%  "
        f"{found['speedup']:5.2f}x  {found['measured']:5} measured  {found['deciding']:6.1f} s deciding, "
        f"{found['slowest_round']:.2f} s at most"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search.sim", description=__doc__)
    parser.add_argument("--device", default=RECORDED_DEVICE)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("out/search"))
    parser.add_argument("--anew", action="store_true", help="run again what the repository has rows of")
    parser.add_argument("--render", action="store_true", help="run nothing; write tables and plots")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    done = known(options.device, options.out, anew=options.anew)
    if options.render:
        render(done, MODELS, STRATEGIES, options.seeds)
        if options.device == RECORDED_DEVICE:
            keep(RECORDED, (done[key] for key in sorted(done)))
        return 0
    os.nice(10)
    keys = list(wanted(options.models.split(","), options.strategies.split(","), options.seeds))
    run(devices(options.device), keys, options.out, done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
