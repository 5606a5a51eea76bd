"""One job from start to end: import, plan, search, build, compare, verify, export. Can be stopped at any point."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tuner.allowance import build_seconds, compare_seconds, search_end
from tuner.build.tuning_log import write_tuning_log
from tuner.build.verify import Verification
from tuner.builds import Builds
from tuner.clock import Clock
from tuner.comparing import Comparing, winner
from tuner.errors import CandidateError, InternalError
from tuner.events import Curve, Progress, Stage, Watch, silent
from tuner.graph.ir import Graph
from tuner.graph.load import ImportedModel, import_model
from tuner.inputs import Inputs
from tuner.measure.contest import ContestResult, ratio
from tuner.measure.device import toolchain
from tuner.measure.local import LocalRunner
from tuner.measure.machine import MachineState, Reading
from tuner.measure.models import Here, WholeModels
from tuner.measure.options import MeasureOptions
from tuner.measure.ranges import image_ranges
from tuner.measure.rounding import Rounding, choose_layers
from tuner.measure.runner import Runner
from tuner.output import check_writable, install
from tuner.plan.legality import validate
from tuner.plan.plan import Plan
from tuner.precision import DOT_FEATURE, FP32, INT8, check_features
from tuner.report import Outcome, make_report
from tuner.residency import residency
from tuner.search.courses import AsBegun, Course, Planned, course
from tuner.search.examination import examined
from tuner.search.experience import Experience
from tuner.search.foreseeing import Foreseen
from tuner.search.fusion import greedy, unfused
from tuner.search.lowering import check_plan
from tuner.search.questions import core_counts, distinct, known_share, questions
from tuner.search.replanning import Replanning, replan
from tuner.search.samples import Samples
from tuner.search.strategies.base import Strategy
from tuner.search.tuning import Tuning
from tuner.store import NoStore, TrialStore
from tuner.turns import Turn, alone
from tuner.types import PROTOCOL, Device, JobSpec, Trial
from tuner.wholes import Wholes


@dataclass
class Session:
    """Runs one JobSpec against one model file.

    ``stop`` may be called from any thread or signal handler: the session then finishes with the best found so far.
    """

    spec: JobSpec
    model: Path
    device: Device
    out: Path | None = None  # where the artifact goes; None = nowhere (a dry run)
    store: TrialStore = field(default_factory=NoStore)
    watch: Watch = silent
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)  # real inputs to verify on; random otherwise
    baselines: bool = True  # build and time unoptimised and unfused as well
    search: bool = True  # False = answer from the store alone
    retry: bool = False  # measure again what failed for a passing reason in an earlier run of this job
    clock: Clock = field(default_factory=Clock)  # a resumed job hands in one that knows how long it has worked
    curve: Curve = field(default_factory=Curve)  # and what its best latency was when
    turn: Turn = alone
    external: bool = True  # whether the model may keep weights in files beside it; False for one that somebody sent
    runner: Callable[[Device, MeasureOptions], Runner] = LocalRunner  # where kernels are built and measured ...
    elsewhere: bool = False  # ... whether that is on another machine, so that what is compiled there is not here ...
    models: WholeModels = field(default_factory=Here)  # ... and where whole models are run
    samples: Samples | None = None  # what the cost model of blocks learns from before anything is measured ...
    experience: Experience | None = None  # ... and that of knobs

    def __post_init__(self) -> None:
        self._stopped = False
        self._machine = Reading.now()
        self._disturbed = 0  # samples that foreign load disturbed
        self.graph: Graph | None = None  # once the model is read
        self._comparing: Comparing | None = None  # once the model is read
        self._wholes: Wholes | None = None  # once it is planned
        self._seconds = {"building": 0.0, "measuring": 0.0, "deciding": 0.0}
        self._tuning: Tuning | None = None
        self._foreseen: Foreseen | None = None  # of the tuned plan as a whole, before it was built
        self._replanning: Replanning | None = None  # with strategies that consider other plans than the one begun with
        self._inputs: list[dict[str, np.ndarray]] = []  # what whole models are run on
        self._rounding: Rounding | None = None  # in bf16 or int8, what it costs this model
        self._ranges: Mapping[str, np.ndarray] = {}  # in int8, of images

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end early."""
        return self._stopped

    def stop(self) -> None:
        """Ask the session to end with the best found so far."""
        self._stopped = True
        if self._tuning is not None:
            self._tuning.stop()

    def run(self) -> dict[str, Any]:
        """Do it; returns the report.

        Raises UserError for bad input (nothing is written then), InternalError when the result is wrong.
        """
        check_writable(self.out)
        self._say(Stage.IMPORT, f"reading {self.model.name}")
        model = import_model(
            self.model, shapes=self.spec.shapes, disabled=self.spec.disabled_passes, external=self.external
        )  # fmt: skip
        self.graph = model.graph
        self._inputs = Inputs(model.graph, self.inputs, self.spec.seed).sets
        with tempfile.TemporaryDirectory(prefix="fusetune-") as scratch:
            self._comparing = Comparing(
                self.spec, self.model, model, self._inputs, self.models, self.device.cores, Path(scratch)
            )
            return self._run(model, Path(scratch))

    # stages -----------------------------------------------------------------------------------------------------

    def _run(self, model: ImportedModel, scratch: Path) -> dict[str, Any]:
        comparing = self._comparing
        assert comparing is not None  # since run
        model = self._calibrated(model, scratch)
        begun = self._plan(model, scratch)
        builds = Builds(model, self.device, scratch)
        wholes = self._wholes = Wholes(self.spec, self.device, model.graph, builds, comparing, self.clock, self._say)
        with self._turn("the default plan"):
            wholes.build_default(begun)
            self._say(Stage.COMPARE, "timing the default plan and ONNX Runtime")
            comparing.first_look()
            if self.baselines:
                wholes.spare_baselines()
        way = self._search(model, begun, builds)
        found, self._foreseen = way.found(), way.foreseen(self._known.get("default"))
        with self._turn("whole models"):
            wholes.build_found(found)
            wholes.build_lanes(found["tuned"].asked, self._compare_seconds)
            if self.baselines:
                wholes.build_baselines(self._compare_seconds)
            self._say(Stage.COMPARE, "timing whole models in turns")
            result = comparing.compare(wholes.steps, self._compare_seconds)
            best = winner(result, wholes.steps)
            verification = wholes.verified(best)
        if not verification.passed:
            raise InternalError(
                f"The tuned model differs from the reference by {verification.max_rel_error:.2g} "
                f"(limit {verification.limit:g}); it was not exported.",
                code="wrong-result",
            )
        with self._turn("the finished model"):
            report = self._report(model, wholes, result, best, verification)
        self._export(builds.folder(best), wholes.plans[best], report, way.tuning.trials)
        self._say(Stage.EXPORT, "done", best=report["latency_ms"]["tuned"]["median"] / 1e3, done=1.0)
        return report

    def _plan(self, model: ImportedModel, scratch: Path) -> Planned:
        self._say(Stage.PLAN, f"fusing {len(model.graph.layers)} layers")
        cores = core_counts(self.spec.cores, self.device)
        if self.spec.precision != FP32 and self.spec.plan is None:
            self._rounding = self._round(model, scratch)
        if self.spec.plan is not None:
            plan = Plan.from_json(self.spec.plan)
            validate(plan, model.graph, self.device.cores)
            check_plan(plan, self.spec.precision)
        elif self.spec.strategy == "none":
            plan = unfused(model.graph, self.device, 1)
        else:
            plan = greedy(model.graph, self.device, max(cores), self._narrow, deep=self.spec.precision == FP32)
        asked = questions(
            plan, model.graph, self.device, cores=cores, precision=self.spec.precision, seed=self.spec.seed,
            residency=residency(model.graph, self.device), alternatives=self.spec.plan is None, exact=self._exact,
        )  # fmt: skip
        return Planned(plan, asked)

    def _calibrated(self, model: ImportedModel, scratch: Path) -> ImportedModel:
        """The model with the ranges of its images among its weights, where kernels in int8 need them."""
        if self.spec.precision != INT8:
            return model
        check_features(INT8, self.device.features)
        self._say(Stage.PLAN, "measuring the ranges of images")
        with self._turn("the ranges of images"):
            try:
                self._ranges = image_ranges(model.graph, model.weights, self._inputs, self.device.cores, scratch)
            except CandidateError as error:
                raise InternalError(f"The ranges of images are not known: {error}", code="not-verified") from error
        return replace(model, weights={**model.weights, **self._ranges})

    def _round(self, model: ImportedModel, scratch: Path) -> Rounding:
        """Which layers may be rounded within the job's limit."""
        precision, cores, limit = self.spec.precision, self.device.cores, self.spec.accuracy
        what = f"what {precision} costs in accuracy"
        self._say(Stage.PLAN, f"measuring {what}")
        with self._turn(what):
            try:
                found = choose_layers(
                    model.graph, model.weights, self._inputs, limit, cores, scratch,
                    operands=DOT_FEATURE in self.device.features, ranges=self._ranges if precision == INT8 else None,
                )  # fmt: skip
            except CandidateError as error:
                raise InternalError(
                    f"What {precision} costs could not be measured: {error}", code="not-verified"
                ) from error
        if found.kept:
            text = f"{len(found.kept)} layers keep float32: with all in {precision} the error is {found.every:.2g}"
            self._say(Stage.PLAN, f"{text}, the limit {limit:g}")
        return found

    @property
    def _exact(self) -> frozenset[str]:
        """Computations whose weights stay float32."""
        return frozenset() if self._rounding is None else self._rounding.exact

    @property
    def _narrow(self) -> frozenset[str]:
        """Tensors that lie in memory as bfloat16."""
        return frozenset() if self._rounding is None else self._rounding.narrow

    def _search(self, model: ImportedModel, begun: Planned, builds: Builds) -> Course:
        budget = self.spec.budget
        options = MeasureOptions(seed=self.spec.seed, objects=builds.objects)
        tuning = Tuning(
            distinct(begun.asked), self.device, self.store, self.spec.seed, fresh=self.spec.fresh, retry=self.retry,
            clock=self.clock, turn=self._turn, experience=self.experience,
        )  # fmt: skip
        self._tuning = tuning
        if self.spec.strategy == "none" or budget.trials == 0:
            return AsBegun(begun, tuning)  # those two promise the default knobs
        strategy = self.spec.strategy if self.spec.plan is None else "greedy"  # a plan that was given stays
        way = course(strategy, begun, tuning, lambda known, chosen: self._replan(model, known, chosen))
        way.recall()
        if self.search and not self._stopped:
            with self.runner(self.device, options) as runner:
                plan_trials = 1  # the tuned model as a whole
                trials = None if budget.trials is None else max(0, budget.trials - plan_trials)
                for _ in way.run(runner, trials, self._search_end(way.most, begun, builds)):
                    self._say(Stage.SEARCH, tuning.message, tuning.latency, self._share(tuning))
                self._disturbed = runner.disturbed
        self._seconds["building"] += tuning.build_seconds
        self._seconds["measuring"] += tuning.measure_seconds
        self._seconds["deciding"] += tuning.deciding_seconds
        return way

    def _search_end(self, plans: int, begun: Planned, builds: Builds) -> float | None:
        """When the search has to end, in the clock's seconds, to leave time for building and comparing its plans.

        Kernels that are known from before, or compiled elsewhere, are yet to be compiled here afterwards.
        """
        budget = self.spec.budget.seconds
        if budget is None:
            return None
        missing = 1.0 if self.elsewhere else known_share(begun.asked)
        baselines = self.baselines and not (self._wholes is not None and self._wholes.left_out)
        building = build_seconds(builds.first, plans, missing, baselines=baselines)
        look = self._comparing.look_seconds if self._comparing is not None else 0.0
        return search_end(budget, self.clock.seconds, building, self._compare_seconds, look)

    def _replan(self, model: ImportedModel, tuning: Tuning, strategy: Strategy) -> Replanning:
        cores = core_counts(self.spec.cores, self.device)
        self._replanning = replan(
            model.graph, cores, residency(model.graph, self.device), tuning, strategy, self.samples,
            precision=self.spec.precision, exact=self._exact, narrow=self._narrow,
        )  # fmt: skip
        return self._replanning

    @property
    def _compare_seconds(self) -> float:
        budget, blocks = self.spec.budget.seconds, self._tuning.latency if self._tuning is not None else None
        left = None if budget is None else budget - self.clock.seconds
        return compare_seconds(self._known.get("default"), blocks, left)

    def _report(
        self, model: ImportedModel, wholes: Wholes, result: ContestResult, winner: str, verification: Verification
    ) -> dict[str, Any]:  # fmt: skip
        began = time.monotonic()
        kernels = self.models.profile(wholes.builds.folder(winner))
        whole = self._comparing.seconds if self._comparing is not None else 0.0
        measuring = self._seconds["measuring"] + whole + time.monotonic() - began
        outcome = Outcome(
            spec=self.spec, model=model, device=self.device, plan=wholes.plans[winner], steps=wholes.steps[winner],
            contest=result, winner=winner, ratio=ratio(result, winner, "onnxruntime"), verification=verification,
            memory=wholes.builds.memory(winner), kernels=kernels,
            over_greedy=ratio(result, "tuned", "greedy") if _has(result, "tuned", "greedy") else None,
            over_default=ratio(result, "tuned", "default") if _has(result, "tuned", "default") else None,
            tuning=self._tuning, foreseen=self._foreseen, curve=self.curve.points,
            machine=MachineState.since(self._machine), disturbed=self._disturbed,
            seconds=self._seconds | {
                "building": self._seconds["building"] + wholes.builds.seconds, "measuring": measuring,
                "total": self.clock.seconds,
            },
            toolchain=toolchain(), protocol=PROTOCOL,
            blocks=examined(self._replanning.state) if self._replanning else None, rounding=self._rounding,
            left_out=wholes.left_out, beside=wholes.beside,
            over_in_turn=ratio(result, "lanes", "tuned") if _has(result, "lanes", "tuned") else None,
        )  # fmt: skip
        return make_report(outcome)

    def _export(self, folder: Path, plan: Plan, report: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        """Move the finished artifact to its place; what an earlier run left there under the same names goes."""
        if self.out is None:
            return
        self._say(Stage.EXPORT, f"writing {self.out.name}")
        (folder / "plan.json").write_text(json.dumps(plan.to_json(), indent=1) + "\n")
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        with (folder / "trials.jsonl").open("w") as file:
            file.writelines(json.dumps(t.to_json()) + "\n" for t in trials)
        write_tuning_log(folder / "tuning_log", trials, self.device)
        install(folder, self.out)

    # helpers ----------------------------------------------------------------------------------------------------

    def _say(self, stage: Stage, message: str, best: float | None = None, done: float = 0.0) -> None:
        tuning, elapsed = self._tuning, self.clock.seconds
        measured = tuning.measured if tuning else 0
        # Until every block was measured, the default plan as timed whole is the best there is.
        best = best or (tuning.latency if tuning else None) or self._known.get("default")
        self.curve.add(elapsed, measured, best)
        self.watch(
            Progress(
                stage, message, measured, tuning.failed if tuning else 0, tuning.reused if tuning else 0, best,
                self._known.get("onnxruntime"), self._known.get("unoptimised"), elapsed, done,
            )
        )  # fmt: skip

    @contextmanager
    def _turn(self, what: str) -> Iterator[None]:
        """Hold the device; waiting for it costs no budget."""
        turn = self.turn(what)
        with self.clock.stopped():
            turn.__enter__()
        with ExitStack() as stack:
            stack.push(turn)
            yield

    @property
    def _known(self) -> Mapping[str, float]:
        """Latencies of whole models timed so far."""
        return self._comparing.known if self._comparing is not None else {}

    def _share(self, tuning: Tuning) -> float:
        budget = self.spec.budget
        by_time = self.clock.seconds / budget.seconds if budget.seconds else 0.0
        by_trials = tuning.measured / budget.trials if budget.trials else 0.0
        return min(0.99, max(by_time, by_trials))


def _has(result: ContestResult, *names: str) -> bool:
    """Whether all of these took part."""
    return {*names} <= {standing.contestant.name for standing in result.standings}
