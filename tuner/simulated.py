"""One job on a simulated device: import, plan space, search, report. Nothing is built; every time is simulated."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cost_model.block_model import BlockModel
from tuner.clock import Clock
from tuner.errors import InternalError, UserError
from tuner.events import Curve, Progress, Stage, Watch, silent
from tuner.graph.costs import layer_cost
from tuner.graph.ir import Graph
from tuner.graph.load import ImportedModel, import_model
from tuner.graph.passes.registry import SLICING
from tuner.measure.device import toolchain
from tuner.output import check_writable, install
from tuner.plan.chains import AnyChain, deepest
from tuner.plan.partition import Choice, to_plan
from tuner.plan.space import PlanSpace, plan_space
from tuner.report import cost_model, failures, preamble
from tuner.search.blocks import machine_of
from tuner.search.examination import examined
from tuner.search.planning import Planning
from tuner.search.predictor import BlockPredictor
from tuner.search.samples import Samples
from tuner.search.strategies.base import State, evaluations_of
from tuner.search.strategies.registry import strategy
from tuner.search.strategies.unmeasured import unmeasured
from tuner.simulate.runner import runner_of
from tuner.store import NoStore, TrialStore
from tuner.turns import Turn, alone
from tuner.types import PROTOCOL, Device, JobSpec, Purpose, Trial

BASELINES = {"unoptimised": "none", "unfused": "fixed-layers", "default": "fixed-greedy"}
README = (
    "This plan was searched on a simulated device ({device}): every time in report.json and trials.jsonl is simulated, "
    "and there is no model.so.\nplan.json names the blocks and their cores; `fusetune tune MODEL --plan plan.json` "
    "builds it for a real device, as far as that device's templates serve its blocks.\n"
)


@dataclass
class SimulatedSession:
    """Runs one JobSpec against one model file on a simulated device; to its driver it looks like a Session."""

    spec: JobSpec
    model: Path
    device: Device
    out: Path | None = None  # where plan and report go; None = nowhere
    store: TrialStore = field(default_factory=NoStore)
    watch: Watch = silent
    samples: Samples | None = None  # what the cost model of blocks learns from before anything is measured
    clock: Clock = field(default_factory=Clock)
    curve: Curve = field(default_factory=Curve)
    turn: Turn = alone
    external: bool = True  # whether the model may keep weights in files beside it

    def __post_init__(self) -> None:
        self._stopped = False
        self.graph: Graph | None = None
        self._planning: Planning | None = None

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end early."""
        return self._stopped

    def stop(self) -> None:
        """Ask the session to end with the best found so far."""
        self._stopped = True
        if self._planning is not None:
            self._planning.stop()

    def run(self) -> dict[str, Any]:
        """Do it; returns the report. Raises UserError for bad input; nothing is written then."""
        check_writable(self.out)
        if self.spec.plan is not None:
            raise UserError("A simulated device searches its own plans; --plan is for real ones.", code="bad-plan")
        self._say(Stage.IMPORT, f"reading {self.model.name}")
        model = import_model(
            self.model, shapes=self.spec.shapes, disabled=(*self.spec.disabled_passes, *SLICING),
            external=self.external,
        )  # fmt: skip
        self.graph = model.graph
        rules = deepest(model.graph)
        depth = "" if rules.depth is None else f", each of at most {rules.depth} layers that are not elementwise"
        self._say(Stage.PLAN, f"listing the blocks of {len(model.graph.layers)} layers{depth}")
        cores = self.spec.cores or tuple(range(1, self.device.cores + 1))
        space = plan_space(model.graph, self.device, tuple(sorted(set(cores))), rules)
        choice, planning = self._search(space)
        self._say(Stage.COMPARE, "timing whole plans on the simulated device")
        with self.turn("whole plans"):
            whole = self._compare(space, choice)
        report = self._report(model, space, rules, choice, planning, whole)
        self._export(space, choice, report, planning.trials)
        self._say(Stage.EXPORT, "done", best=report["latency_ms"]["tuned"]["median"] / 1e3, done=1.0)
        return report

    # stages -----------------------------------------------------------------------------------------------------

    def _search(self, space: PlanSpace) -> tuple[Choice, Planning]:
        budget = self.spec.budget
        model = BlockModel(machine_of(self.device), self.spec.seed)
        trained = BlockPredictor(space, model, self.samples)
        state = State(space, seed=self.spec.seed, budget=budget.trials, predictor=trained)
        planning = Planning(state, strategy(self.spec.strategy), self.store, fresh=self.spec.fresh, clock=self.clock)
        self._planning = planning
        planning.recall()
        with self.turn("the search"), runner_of(self.device, self.spec.seed) as runner:
            for _ in planning.run(runner, budget.trials, budget.seconds):
                self._say(Stage.SEARCH, planning.message)
        try:
            return planning.strategy.choose(state), planning
        except InternalError as error:
            raise UserError(
                f"The budget of {planning.measured} trials ended before {self.spec.strategy} had a plan.",
                code="budget-too-small", hint="Give it more trials.",
            ) from error  # fmt: skip

    def _compare(self, space: PlanSpace, tuned: Choice) -> dict[str, list[float]]:
        """Name of a whole plan -> simulated seconds of some runs, each the sum of its blocks' samples."""
        left_out = _left_out(space)
        baselines = {name: unmeasured(space, which) for name, which in BASELINES.items() if name not in left_out}
        chosen = {"tuned": tuned} | baselines
        found = {}
        with runner_of(self.device, self.spec.seed) as runner:
            for name, choice in chosen.items():
                wanted = evaluations_of(space, choice)
                asked = {e: space.candidate(e, {}) for e in dict.fromkeys(wanted)}
                samples = {t.candidate.key: t.samples for t in runner.run(asked.values(), Purpose.FINAL)}
                runs = zip(*(samples[asked[e].key] for e in wanted), strict=True)
                found[name] = [sum(run) for run in runs]
        return found

    def _report(
        self, model: ImportedModel, space: PlanSpace, rules: AnyChain, choice: Choice, planning: Planning,
        whole: Mapping[str, Sequence[float]],
    ) -> dict[str, Any]:  # fmt: skip
        latency: dict[str, Any] = dict.fromkeys(BASELINES) | {
            name: {"median": round(median(s) * 1e3, 5), "min": round(min(s) * 1e3, 5), "samples": len(s)}
            for name, s in whole.items()
        }
        tuned = latency["tuned"]["median"]
        return preamble(self.spec, model, self.device, toolchain(), PROTOCOL) | {
            "measured": False,
            "reused": bool(planning.reused and not planning.measured),
            "trials": {
                "measured": planning.measured,
                "failed": planning.failed,
                "reused": planning.reused,
                "failures": failures(planning.trials),
            },
            "seconds": {
                "total": round(self.clock.seconds, 3), "building": 0.0, "searching": round(self.clock.seconds, 3),
                "measuring": round(planning.measure_seconds, 3), "deciding": round(planning.deciding_seconds, 3),
            },
            "latency_ms": latency | {"onnxruntime": None},
            "speedup": {f"over_{n}": round(latency[n]["median"] / tuned, 4) if n in whole else None for n in BASELINES}
            | {"over_onnxruntime": None, "over_onnxruntime_interval": None, "over_onnxruntime_rounds": None},
            "left_out": _left_out(space),
            "verification": None,
            "cost_model": self._cost_model(planning),
            "machine": None,
            "space": {
                "blocks": len(space.blocks), "questions": len(space.questions), "evaluations": space.evaluations,
                "complete": space.complete and rules.depth is None, "depth": rules.depth, "exact": choice.exact,
            },
            "plan": to_plan(space, choice).hash,
            "curve": [[t, n, round(best * 1e3, 5)] for t, n, best in self.curve.points],
            "blocks": _blocks(space, choice, planning.state.believed()),
        }  # fmt: skip

    def _cost_model(self, planning: Planning) -> dict[str, Any] | None:
        """How well evaluations were predicted, and with joint, which decides by predictions, those not seen."""
        pairs = [(log(t.predicted), log(t.seconds)) for t in planning.trials if t.predicted and t.seconds]
        return cost_model(pairs, examined(planning.state) if self.spec.strategy == "joint" else None, None)

    def _export(self, space: PlanSpace, choice: Choice, report: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        if self.out is None:
            return
        self._say(Stage.EXPORT, f"writing {self.out.name}")
        with tempfile.TemporaryDirectory(prefix="fusetune-") as scratch:
            folder = Path(scratch)
            manifest = {"format": 1, "simulated": True, "device": self.device.to_json(), "sha256": {}}
            for name, value in (
                ("plan.json", to_plan(space, choice).to_json()), ("report.json", report), ("manifest.json", manifest),
            ):  # fmt: skip
                (folder / name).write_text(json.dumps(value, indent=1) + "\n")
            (folder / "README.txt").write_text(README.format(device=self.device.model))
            with (folder / "trials.jsonl").open("w") as file:
                file.writelines(json.dumps(t.to_json()) + "\n" for t in trials)
            install(folder, self.out)

    def _say(self, stage: Stage, message: str, best: float | None = None, done: float = 0.0) -> None:
        planning, elapsed = self._planning, self.clock.seconds
        best = best or (planning.latency if planning else None)
        measured = planning.measured if planning else 0
        self.curve.add(elapsed, measured, best)
        progress = Progress(stage, message, measured, best_latency=best, elapsed=elapsed, done=done)
        self.watch(
            replace(progress, failed=planning.failed, reused=planning.reused) if planning is not None else progress
        )


def _left_out(space: PlanSpace) -> dict[str, str]:
    """Baselines that the core counts considered do not permit -> why. The others run on the most cores considered."""
    if 1 in space.cores:
        return {}
    allowed = ", ".join(map(str, space.cores))
    return {"unoptimised": f"It runs on 1 core, and the core counts allowed are {allowed}."}


def _blocks(space: PlanSpace, choice: Choice, seconds: np.ndarray) -> list[dict[str, Any]]:
    """The plan's blocks in running order with their times alone."""
    rows = []
    for index, cores, (q, c) in zip(choice.blocks, choice.cores, evaluations_of(space, choice), strict=True):
        block, time = space.blocks[index], float(seconds[q, c])
        ops = sum(layer_cost(space.graph, space.graph.by_id[i]).ops for i in block.layers)
        rows.append(
            {
                "layers": list(block.layers), "cores": cores, "layouts": {}, "template": space.questions[q].template,
                "knobs": None, "symbol": None, "ms": round(time * 1e3, 6), "gflops": round(ops / time / 1e9, 2),
                "share": round(time / choice.seconds, 5),
            }
        )  # fmt: skip
    return rows
