"""``fusetune tune --build-only``: explore, rank, check on the CPU, compile for a GPU that is not here, write it all.

The artifact has ``measured: false``: its kernels are those ranked first, or those that were fastest in results that an
earlier round's bundle brought back. Beside it lies the next bundle.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tuner.build.artifact import write_manifest, write_parameters
from tuner.errors import CandidateError, InternalError
from tuner.events import Progress, Stage, Watch, silent
from tuner.gpu.bundle import Bundle, Results, read_results, write_cubins
from tuner.gpu.checking import Reference, check_lowering, check_schedule, reference_of
from tuner.gpu.cuda import Built, build_kernel, build_model, target_of, with_defaults
from tuner.gpu.explore import DESIGN, Explorer, Scheduled, ranked
from tuner.gpu.lower import Lowered, Task, lower
from tuner.gpu.nvcc import Compiler, find_nvcc
from tuner.gpu.ranking import Ranker
from tuner.gpu.reporting import GPU_README, Chosen, build_report
from tuner.gpu.spec import spec_of
from tuner.graph.load import ImportedModel, import_model
from tuner.inputs import Inputs
from tuner.measure.device import toolchain
from tuner.output import check_writable, install
from tuner.types import Device, Failure, FailureKind, JobSpec, Trial

POINTS = 48  # of the design spaces of one task that are looked at
KEEP = 6  # candidates of one task that go into a bundle
SPILLS = 256  # B that a thread spills beyond which a kernel is not measured: its loops then run from memory
EXPLORING, BUILDING = 0.4, 0.85  # shares of the time budget by which these end
_KINDS = {"build-failed": FailureKind.BUILD, "rejected": FailureKind.REJECTED, "wrong": FailureKind.WRONG}


@dataclass
class BuildOnly:
    """Builds one model for a GPU. ``stop`` ends exploring and building early, with what there is."""

    spec: JobSpec
    model: Path
    device: Device
    out: Path
    results: Sequence[Path] = ()
    watch: Watch = silent
    _trials: list[Trial] = field(default_factory=list, init=False)  # of this run: all failures
    _refused: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)

    def stop(self) -> None:
        """Ask it to end with what it has."""
        self._stopped = True

    def run(self) -> dict[str, Any]:
        """Do it; returns the report.

        Raises UserError for bad input, InternalError (``no-nvcc``) without a compiler; nothing is written then.
        """
        self._began = time.monotonic()
        compiler = find_nvcc()
        compiler.require(self.device.mcpu)
        check_writable(self.out)
        self._say(Stage.IMPORT, f"reading {self.model.name}")
        model = import_model(self.model, shapes=self.spec.shapes, disabled=self.spec.disabled_passes)
        known = read_results(self.results, model.sha256, self.device.mcpu, self.device)
        with tempfile.TemporaryDirectory(prefix="fusetune-") as scratch:
            folder = Path(scratch)
            report = self._build(model, known, compiler, folder)
            install(folder, self.out)
        self._say(Stage.EXPORT, "done", 1.0)
        return report

    def _build(self, model: ImportedModel, known: Results, compiler: Compiler, folder: Path) -> dict[str, Any]:
        target, spec = target_of(self.device), spec_of(self.device)
        self._say(Stage.PLAN, "lowering the model")
        lowered = lower(model.graph, model.weights, target)
        inputs = Inputs(model.graph, {}, self.spec.seed).sets
        verification = check_lowering(lowered, model, self.model, inputs, self.spec.accuracy)
        if not verification.passed:
            raise InternalError(
                f"The lowered model differs from the reference by {verification.max_rel_error:.2g} "
                f"(limit {verification.limit:g}).", code="wrong-result",
            )  # fmt: skip
        explorers = [Explorer(task, target, spec) for task in lowered.tasks]
        ranker = Ranker(spec, self.spec.seed)
        ranker.learn(_learned(explorers, known))
        found = self._explore(explorers, ranker, known)
        bundle = Bundle(folder / "bundle", self.spec.seed)
        chosen = self._choose(explorers, found, known, bundle, target, compiler)
        tools = f"{toolchain()}+{compiler.name}"
        facts = {"name": model.name, "sha256": model.sha256}
        bundle.finish(facts, self.device, self.device.mcpu, tools)
        self._say(Stage.BUILD, "compiling the whole model", BUILDING)
        built = self._assemble(lowered, chosen, target, compiler, folder)
        report = build_report(
            self.spec, model, self.device, tools, chosen, [*known.trials, *self._trials], known, verification,
            explored=sum(map(len, found)), refused=sum(e.refused for e in explorers), bundled=len(bundle),
            learned=ranker.learned, seconds=time.monotonic() - self._began,
            unexplored={e.task.name: e.why for e in explorers if e.why is not None},
        )  # fmt: skip
        self._write(folder, model, lowered, built, report, facts | {"toolchain": tools}, known)
        return report

    # stages -------------------------------------------------------------------------------------------------------

    def _explore(
        self, explorers: Sequence[Explorer], ranker: Ranker, known: Results
    ) -> list[list[tuple[float, Scheduled]]]:  # fmt: skip
        """For each task its candidates with the seconds expected of them, the fastest first."""
        random = np.random.default_rng([self.spec.seed, len(known.trials)])  # each round looks elsewhere
        made: list[list[Scheduled]] = [[explorer.default()] for explorer in explorers]
        nothing = self.spec.budget.trials == 0
        by_weight = sorted(range(len(made)), key=lambda k: -made[k][0].looked.guess * explorers[k].task.calls)
        for place, number in enumerate(by_weight):
            explorer = explorers[number]
            self._say(Stage.SEARCH, f"exploring {explorer.task.name}", EXPLORING * place / len(made))
            made[number] += _remade(explorer, known)
            if not (nothing or self._over(EXPLORING)):
                made[number] += explorer.draw(POINTS, random, self._end(EXPLORING))
        found = []
        for each in made:
            different = list({candidate.key: candidate for candidate in each}.values())
            found.append(ranked(different, ranker.predict([candidate.looked for candidate in different])))
        return found

    def _choose(
        self, explorers: Sequence[Explorer], found: Sequence[Sequence[tuple[float, Scheduled]]], known: Results,
        bundle: Bundle, target: Any, compiler: Compiler,
    ) -> list[Chosen]:  # fmt: skip
        """Compile each task's best, one rank of all tasks after another; the first that is right is chosen."""
        measured = {t.candidate.key: t for t in known.trials}
        chosen: dict[str, Chosen] = {}
        references: dict[str, Reference] = {}
        tasks = [explorer.task for explorer in explorers]
        orders = [_measured_first(each, measured) for each in found]
        for task in tasks:
            references[task.hash] = reference_of(task, self.spec.seed)
            bundle.add_task(task, references[task.hash].output)
        fresh = dict.fromkeys(references, 0)  # candidates in the bundle
        for rank in range(max(map(len, orders), default=0)):
            for task, order in zip(tasks, orders, strict=True):
                if rank >= len(order):
                    continue
                seconds, scheduled = order[rank]
                trial = measured.get(scheduled.key)
                if trial is not None and trial.failure is not None:
                    continue
                needed = task.hash not in chosen
                wanted = trial is None and fresh[task.hash] < KEEP and self._room(bundle)
                if not (needed or (wanted and not self._over(BUILDING))):
                    continue
                self._say(Stage.BUILD, f"compiling candidate {rank + 1} of {task.name}", self._share())
                built, error = self._compile(scheduled, task, references[task.hash], bundle, target, compiler, needed)
                if built is None:
                    continue
                if wanted:
                    bundle.add(scheduled, built, seconds)
                    fresh[task.hash] += 1
                else:
                    bundle.library(scheduled).unlink()
                if needed:
                    chosen[task.hash] = Chosen(task, scheduled, seconds, error, built, trial)
        if missing := [task.name for task in tasks if task.hash not in chosen]:
            raise InternalError(f"No candidate of {missing[0]} compiles.", code="build-failed")
        return [chosen[task.hash] for task in tasks]

    def _compile(
        self, scheduled: Scheduled, task: Task, reference: Reference, bundle: Bundle, target: Any, compiler: Compiler,
        check: bool,
    ) -> tuple[Built | None, float | None]:  # fmt: skip
        """A candidate's library and its error as emulated (with ``check``); (None, None) and a trial if it fails."""
        try:
            error = check_schedule(scheduled, task, reference) if check else None
            module = type(task.module)({"main": scheduled.function})
            built = build_kernel(module, target, bundle.library(scheduled), self.device.mcpu, compiler)
            if built.spills > SPILLS and scheduled.candidate.template == DESIGN:
                raise CandidateError(f"A thread spills {built.spills} bytes of registers.", code="rejected")
            return built, error
        except CandidateError as failure:
            bundle.library(scheduled).unlink(missing_ok=True)
            kind = _KINDS.get(failure.code, FailureKind.BUILD)
            self._trials.append(Trial(scheduled.candidate, failure=Failure(kind, failure.message)))
            return None, None

    def _assemble(
        self, lowered: Lowered, chosen: Sequence[Chosen], target: Any, compiler: Compiler, folder: Path
    ) -> Built:  # fmt: skip
        functions = {symbol: c.scheduled.function for c in chosen for symbol in c.task.symbols}
        module = with_defaults(lowered.scheduled(functions), target)
        return build_model(module, target, folder / "model.so", self.device.mcpu, compiler)

    def _write(
        self,
        folder: Path,
        model: ImportedModel,
        lowered: Lowered,
        built: Built,
        report: Any,
        facts: Any,
        known: Results,
    ) -> None:
        self._say(Stage.EXPORT, f"writing {self.out.name}", 0.95)
        write_cubins(built, folder / "cubins")
        parameters = ((f"p{k}", array) for k, array in enumerate(lowered.parameters))
        entries = write_parameters(parameters, folder / "params.bin")
        graph = model.graph
        tensors = {
            end: [{"name": n, "shape": list(graph.tensors[n].shape), "dtype": graph.tensors[n].dtype} for n in names]
            for end, names in (("inputs", graph.inputs), ("outputs", graph.outputs))
        }
        model_facts = {key: facts[key] for key in ("name", "sha256")}
        write_manifest(folder, {
            "model": model_facts, "toolchain": facts["toolchain"], "device": self.device.to_json(), "measured": False,
            **tensors, "parameters": entries, "cubins": sorted(built.cubins), "kernels": report["blocks"],
        })  # fmt: skip
        (folder / "README.txt").write_text(GPU_README)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        with (folder / "trials.jsonl").open("w") as file:
            file.writelines(json.dumps(t.to_json()) + "\n" for t in [*known.trials, *self._trials])

    # helpers ------------------------------------------------------------------------------------------------------

    def _room(self, bundle: Bundle) -> bool:
        """Whether the bundle may take another candidate: a budget of trials is one of what is to be measured."""
        most = self.spec.budget.trials
        return most is None or len(bundle) < most

    def _end(self, share: float) -> float:
        seconds = self.spec.budget.seconds
        return float("inf") if seconds is None else self._began + share * seconds

    def _over(self, share: float) -> bool:
        return self._stopped or time.monotonic() >= self._end(share)

    def _share(self) -> float:
        seconds = self.spec.budget.seconds
        return EXPLORING if seconds is None else min(BUILDING, (time.monotonic() - self._began) / seconds)

    def _say(self, stage: Stage, message: str, done: float = 0.0) -> None:
        failed = len(self._trials)
        self.watch(Progress(stage, message, failed=failed, elapsed=time.monotonic() - self._began, done=done))


def _learned(explorers: Sequence[Explorer], known: Results) -> list[tuple[Any, float]]:
    """(what is known of a candidate, measured seconds) of every candidate that was measured."""
    seconds = {t.candidate.key: t.seconds for t in known.trials}
    made = [c for explorer in explorers for c in (*_remade(explorer, known), explorer.default())]
    return [(c.looked, float(s)) for c in made if (s := seconds.get(c.key)) is not None]


def _remade(explorer: Explorer, known: Results) -> list[Scheduled]:
    """The points of a task that results speak of, made again; such as are none any more are left out."""
    made = []
    for trial in known.of(explorer.task.hash):
        if trial.candidate.template == DESIGN and trial.failure is None:
            try:
                made.append(explorer.make(trial.candidate.knobs))
            except CandidateError:
                continue
    return made


def _measured_first(
    candidates: Sequence[tuple[float, Scheduled]], measured: dict[str, Trial]
) -> list[tuple[float, Scheduled]]:  # fmt: skip
    """Those with a time by it, the fastest first; then the others as they were ranked."""
    timed = [(t.seconds, c) for _, c in candidates if (t := measured.get(c.key)) is not None and t.seconds is not None]
    rest = [(s, c) for s, c in candidates if (t := measured.get(c.key)) is None or t.seconds is None]
    return [*sorted(timed, key=lambda pair: pair[0]), *rest]
