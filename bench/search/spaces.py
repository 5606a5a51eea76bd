"""A zoo model's plan space on a simulated device with all its answers: the noise-free table, the oracle, the features.

Making them takes minutes for large models, so they are kept in a folder, and made anew when what they follow from has
changed: the model, the spec, the simulator or the features.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cost_model.block_features import COLUMNS
from tuner.graph import zoo
from tuner.graph.ir import Graph
from tuner.graph.load import import_model
from tuner.graph.passes.registry import SLICING
from tuner.plan.chains import AnyChain
from tuner.plan.partition import Choice, Table, best_partition
from tuner.plan.space import PlanSpace, plan_space
from tuner.search.blocks import block_rows
from tuner.simulate.machine import noisy, times
from tuner.simulate.spec import SimSpec, load
from tuner.types import Device, digest

ROOT = Path(__file__).parents[2]
SIMULATOR = ("tuner/simulate/machine.py", "tuner/simulate/work.py", "tuner/plan/halo.py")
FEATURES = ("tuner/search/blocks.py", "cost_model/block_features.py", "tuner/plan/halo.py")
SAMPLES = 5  # of one measurement; its median counts
_SAVED_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class SimSpace:
    """One model on one simulated device."""

    model: str
    depth: int | None  # most heavy layers in a block; None = no limit
    spec: SimSpec
    plans: PlanSpace
    table: Table  # noise-free seconds, [questions, cores]
    features: np.ndarray  # float32 [questions, cores, columns]

    @cached_property
    def oracle(self) -> Choice:
        """The best of all plans."""
        return best_partition(self.plans, self.table)

    def measure(self, evaluation: tuple[int, int], seed: int) -> float:
        """The median of noisy samples; equal for equal arguments."""
        key = f"{self.plans.graph.hash} {evaluation[0]} {evaluation[1]}"
        return float(np.median(noisy(float(self.table[evaluation]), self.spec, key, seed, SAMPLES)))


def sim_space(model: str, device: Device, folder: Path, depth: int | None = None) -> SimSpace:
    """The model's space on the device, with what ``folder`` keeps of it."""
    graph, spec = zoo_graph(model, folder), load(device.name)
    plans = plan_space(graph, device, tuple(range(1, device.cores + 1)), AnyChain(depth))
    count, shape = len(plans.questions), (len(plans.cores),)
    about = [graph.hash, spec.digest, depth, len(plans.blocks), list(COLUMNS)]

    def seconds(q: int) -> np.ndarray:
        return times(spec, plans.workload(q), plans.cores)

    def rows(q: int) -> np.ndarray:
        return block_rows(plans.workload(q), plans.cores, device, layouts=plans.layouts(q))

    kept = folder / f"{model}-{spec.name}-{depth or 'any'}"
    table = _kept(Path(f"{kept}-table.npz"), [*about, *sources(SIMULATOR)], count, shape, np.float64, seconds)
    features = _kept(
        Path(f"{kept}-rows.npz"), [*about, *sources(FEATURES)], count, (*shape, len(COLUMNS)), np.float32, rows
    )
    # Without the workloads made on the way: they are large.
    return SimSpace(model, depth, spec, replace(plans), table, features)


def zoo_graph(model: str, folder: Path) -> Graph:
    """A model of the zoo, whose file ``folder`` keeps."""
    path = folder / f"{model}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        zoo.write(model, path)
    return import_model(path, disabled=SLICING).graph


def sources(paths: tuple[str, ...]) -> list[str]:
    return [digest((ROOT / path).read_text()) for path in paths]


def _kept(
    path: Path, about: list[object], count: int, shape: tuple[int, ...], dtype: type, make: Callable[[int], np.ndarray]
) -> np.ndarray:
    """``[count, *shape]`` with ``make(i)`` at i: from the file as far as it goes, saved now and then on the way."""
    found: np.ndarray = np.zeros((count, *shape), dtype)
    key, done = digest(about), 0
    if path.exists():
        with np.load(path) as data:
            if str(data["key"]) == key:
                done, found[: int(data["done"])] = int(data["done"]), data["values"][: int(data["done"])]
    saved = time.monotonic()
    for i in range(done, count):
        found[i] = make(i)
        if i + 1 == count or time.monotonic() - saved > _SAVED_EVERY:
            scratch = path.with_suffix(".new.npz")
            np.savez(scratch, key=key, done=i + 1, values=found[: i + 1])
            scratch.replace(path)
            saved = time.monotonic()
            print(f"{path.name}: {i + 1} of {count}", file=sys.stderr, flush=True)
    return found
