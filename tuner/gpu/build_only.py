"""``fusetune tune --build-only``: explore, rank, check on the CPU, compile for a GPU that is not here, write it all.

The artifact has ``measured: false``: its kernels are those ranked first, or those that were fastest in results that an
earlier round's bundle brought back. Beside it lies the next bundle.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tvm

from tuner.build.artifact import write_manifest, write_parameters
from tuner.errors import InternalError
from tuner.events import Progress, Stage, Watch, silent
from tuner.gpu.bundle import Bundle, Results, read_results, write_cubins
from tuner.gpu.chains import Chain, find_chains
from tuner.gpu.choosing import Choosing, Relay, Terms
from tuner.gpu.covering import Settled, settled
from tuner.gpu.crew import Crew, Order
from tuner.gpu.cuda import Built, build_model, marked, target_of, with_defaults
from tuner.gpu.explore import CHAIN, DEFAULT, DESIGN, VERSION, ranked
from tuner.gpu.exploring import Exploring, Line
from tuner.gpu.host import host
from tuner.gpu.lower import Lowered, Task, lower, with_more
from tuner.gpu.nvcc import Compiler, find_nvcc
from tuner.gpu.planning import Planned, plan_model
from tuner.gpu.precision import LIMITS, check_precision
from tuner.gpu.ranking import Ranker
from tuner.gpu.reporting import GPU_README, build_report
from tuner.gpu.roof import GpuRoof
from tuner.gpu.siblings import merge_siblings
from tuner.gpu.spec import GpuSpec, spec_of
from tuner.graph.load import ImportedModel, import_model
from tuner.graph.passes.registry import CHAINING, SLICING
from tuner.measure.device import toolchain
from tuner.output import check_writable, install
from tuner.store import NoStore, TrialStore
from tuner.types import Candidate, Device, JobSpec, Trial

POINTS = 48  # of the design spaces of one task that are looked at
KEEP = 6  # candidates of one task that go into a bundle
SPILLS = 256  # B that a thread spills beyond which a kernel is not measured: its loops then run from memory
EXPLORING = 0.45  # share of the time that is left when the first process is there
FEWER = (2, 4)  # the chosen candidates are bundled for the SMs divided by these too, unless the job names numbers
WRITING = 3.0  # s kept for TVM's part of the whole model's build, and for writing it
KERNEL = 0.15  # s of a whole model's build that each kernel takes at least
ALONE = 0.8  # s of a kernel's own build that it does not take in a model's: programs start, headers are read


@dataclass
class BuildOnly:
    """Builds one model for a GPU. ``stop`` ends exploring and building early, with what there is.

    What ``results`` hold is added to ``store``, and what that knows of the same tasks counts as they do.
    """

    spec: JobSpec
    model: Path
    device: Device
    out: Path
    results: Sequence[Path] = ()
    watch: Watch = silent
    store: TrialStore = field(default_factory=NoStore)
    roof: GpuRoof | None = None  # of the GPU, where somebody measured it
    _failed: int = field(default=0, init=False)
    _slowness: float = field(default=1.0, init=False)  # how many times longer work takes, beside that of others here
    _stopped: bool = field(default=False, init=False)

    def stop(self) -> None:
        """Ask it to end with what it has."""
        self._stopped = True

    def run(self) -> dict[str, Any]:
        """Do it; returns the report.

        Raises UserError for bad input, InternalError (``no-nvcc``) without a compiler; nothing is written then.
        """
        self._began = time.monotonic()
        check_precision(self.spec.precision, self._gpu)
        compiler = find_nvcc()
        compiler.require(self.device.mcpu)
        check_writable(self.out)
        here = host()
        with tempfile.TemporaryDirectory(prefix="fusetune-") as scratch:
            folder, work = Path(scratch, "out"), Path(scratch, "work")
            for each in (folder, work):
                each.mkdir()
            crew = Crew(self.device, here, compiler, self.spec.seed, self.spec.precision, work, self.roof)
            with closing(crew):
                report = self._build(crew, compiler, folder, work)
            install(folder, self.out)
        self._say(Stage.EXPORT, "done", 1.0)
        return report

    def _build(self, crew: Crew, compiler: Compiler, folder: Path, work: Path) -> dict[str, Any]:
        self._say(Stage.IMPORT, f"reading {self.model.name}")
        model = import_model(self.model, shapes=self.spec.shapes, disabled=(*self.spec.disabled_passes, *SLICING))
        brought = read_results(self.results, model.sha256, self.device.mcpu, self.device, self.spec.precision)
        target, spec = target_of(self.device), self._gpu
        self._say(Stage.PLAN, "lowering the model")
        began, worked = time.monotonic(), time.process_time()
        graph, weights = model.graph, model.weights
        if not set(SLICING) & set(self.spec.disabled_passes):  # done here in a GPU's own way
            graph, weights = merge_siblings(graph, weights, spec, self.spec.precision)
        lowered = lower(graph, weights, target, self.spec.precision)
        self._slowness = max(1.0, (time.monotonic() - began) / max(1e-3, time.process_time() - worked))
        chains: tuple[Chain, ...] = ()
        if not set(CHAINING) & set(self.spec.disabled_passes):
            chains = find_chains(lowered, spec)
        tasks = (*lowered.tasks, *(chain.task for chain in chains))
        lines = [Line(task, work / str(k)) for k, task in enumerate(tasks)]
        for line in lines:
            line.task.save(line.path)
        known, reused = self._known(brought, tasks)

        ranker, bundle = Ranker(spec, self.spec.seed), Bundle(folder / "bundle", self.spec.seed)
        exploring = self._exploring(crew, lines, lowered, model, known, work)
        relay = Relay(exploring, lambda: self._choosing(lines, ranker, known, bundle, work))
        crew.work(relay)
        choosing, verification = relay.choosing, exploring.verification
        self._failed = len(choosing.trials)
        if verification is None or not verification.passed:
            error, limit = (verification.max_rel_error, verification.limit) if verification else (float("nan"), 0.0)
            raise InternalError(
                f"The lowered model differs from the reference by {error:.2g} (limit {limit:g}).", code="wrong-result"
            )
        for line in lines:
            if not line.task.parts or bundle.holds(line.task):
                bundle.add_task(line.task, line.output())
        tools = f"{toolchain()}+{compiler.name}"
        facts = {"name": model.name, "sha256": model.sha256}
        bundle.finish(facts, self.device, self.device.mcpu, tools, self.spec.precision)
        self._say(Stage.BUILD, "compiling the whole model", self._share())
        final = settled(lowered, chains, choosing.chosen)
        built, planned = self._assemble(final, choosing, target, compiler, folder)
        trials = [*known.trials, *choosing.trials]
        report = build_report(
            self.spec, model, self.device, tools, final.chosen, trials, known, verification,
            explored=sum(len(line.seen) for line in lines), refused=sum(line.refused for line in lines),
            bundled=len(bundle),
            learned=ranker.learned, seconds=time.monotonic() - self._began, reused=reused, planned=planned,
            chains=final.to_json(),
            unexplored={line.task.name: line.why for line in lines if line.why is not None},
        )  # fmt: skip
        self._write(folder, model, final.lowered, built, planned, report, facts | {"toolchain": tools}, trials)
        return report

    # stages -------------------------------------------------------------------------------------------------------

    def _known(self, brought: Results, tasks: Sequence[Task]) -> tuple[Results, int]:
        """What was measured of these tasks: now brought, and kept; and how many of them were kept already."""
        keys = {
            Candidate({}, task.hash, {}, template, VERSION, {}, cores, self.spec.precision).record_key
            for task in tasks for template in ((CHAIN,) if task.parts else (DEFAULT, DESIGN))
            for cores in (self.device.cores, *self._fewer)
        }  # fmt: skip
        kept = {trial.candidate.key: trial for trial in self.store.known(keys)}
        new = [t for t in brought.trials if (k := kept.get(t.candidate.key)) is None or k.samples != t.samples]
        names = {task.hash: {"function": task.name} for task in tasks}
        for trial in new:
            candidate = trial.candidate
            self.store.add(
                replace(trial, candidate=replace(candidate, workload=names.get(candidate.workload_hash, {})))
            )
        known = kept | {trial.candidate.key: trial for trial in brought.trials}
        return Results(tuple(known.values()), brought.devices), len(known) - len(brought.trials)

    def _exploring(
        self, crew: Crew, lines: Sequence[Line], lowered: Lowered, model: ImportedModel, known: Results, work: Path
    ) -> Exploring:
        lowered.save(work / "lowered")
        limit = max(self.spec.accuracy, LIMITS[self.spec.precision])
        verify = Order({"order": "verify", "folder": str(work / "lowered"), "graph": model.graph.to_json(),
                        "model": str(self.model.resolve()), "limit": limit})  # fmt: skip
        again = {line.task.hash: [t.candidate for t in known.of(line.task.hash) if t.failure is None
                                  and t.candidate.template != DEFAULT] for line in lines}  # fmt: skip
        return Exploring(
            lines, verify, again, points=0 if self.spec.budget.trials == 0 else POINTS,
            seed=[self.spec.seed, len(known.trials)],  # each round looks elsewhere
            end=self._exploring_ends, size=crew.size, stopped=lambda: self._stopped,
            say=lambda what: self._say(Stage.SEARCH, what, min(EXPLORING, self._share())),
        )  # fmt: skip

    def _choosing(
        self, lines: Sequence[Line], ranker: Ranker, known: Results, bundle: Bundle, work: Path
    ) -> Choosing:  # fmt: skip
        """Each task's best are compiled, one rank of all tasks after another; the first that is right is chosen."""
        measured = {trial.candidate.key: trial for trial in known.trials}
        samples = [(s.looked, t.seconds) for line in lines for s in line.seen if (t := measured.get(s.key)) is not None]
        ranker.learn([(looked, seconds) for looked, seconds in samples if seconds is not None])
        orders = []
        for line in lines:
            whole = [seen for seen in line.seen if seen.candidate.cores == self.device.cores]
            orders.append(ranked(whole, ranker.predict([seen.looked for seen in whole])))
        terms = Terms(KEEP, self.spec.budget.trials, SPILLS, self._gpu, self._fewer, self._left, lambda: self._stopped)
        return Choosing(lines, orders, measured, bundle, terms, work,
                        lambda what: self._say(Stage.BUILD, what, self._share()))  # fmt: skip

    def _assemble(
        self, final: Settled, choosing: Choosing, target: Any, compiler: Compiler, folder: Path
    ) -> tuple[Built, Planned]:  # fmt: skip
        functions = {
            symbol: marked(tvm.ir.load_json(text), chosen.built.way if chosen.built else 0)
            for chosen, text in ((each, choosing.function(each)) for each in final.chosen)
            for symbol in chosen.task.symbols
        }
        lowered = final.lowered
        planned = plan_model(lowered, final.chosen, functions, self._fewer, self._gpu)
        module = with_defaults(with_more(lowered.scheduled(functions), planned.limited), target)
        threads = host().cores
        return build_model(module, target, folder / "model.so", self.device.mcpu, compiler, threads), planned

    def _write(
        self,
        folder: Path,
        model: ImportedModel,
        lowered: Lowered,
        built: Built,
        planned: Planned,
        report: Any,
        facts: Any,
        trials: Sequence[Trial],
    ) -> None:
        self._say(Stage.EXPORT, f"writing {self.out.name}", 0.95)
        write_cubins(built, folder / "cubins")
        arrays = [("p", lowered.parameters), ("c", planned.constants)]
        named = ((f"{kind}{k}", array) for kind, several in arrays for k, array in enumerate(several))
        entries = write_parameters(named, folder / "params.bin")
        count = len(lowered.parameters)
        graph = model.graph
        tensors = {
            end: [{"name": n, "shape": list(graph.tensors[n].shape), "dtype": graph.tensors[n].dtype} for n in names]
            for end, names in (("inputs", graph.inputs), ("outputs", graph.outputs))
        }
        model_facts = {key: facts[key] for key in ("name", "sha256")}
        write_manifest(folder, {
            "model": model_facts, "toolchain": facts["toolchain"], "device": self.device.to_json(), "measured": False,
            **tensors, "parameters": entries[:count], "constants": entries[count:], "cubins": sorted(built.cubins),
            "kernels": report["blocks"], "launches": planned.to_json(),
        })  # fmt: skip
        if planned.plan is not None:
            (folder / "plan.json").write_text(json.dumps(planned.plan.to_json(), indent=1) + "\n")
        (folder / "README.txt").write_text(GPU_README)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        with (folder / "trials.jsonl").open("w") as file:
            file.writelines(json.dumps(t.to_json()) + "\n" for t in trials)

    # helpers ------------------------------------------------------------------------------------------------------

    @property
    def _gpu(self) -> GpuSpec:
        """What is known of the GPU: what was measured of it, else its data sheet."""
        spec = spec_of(self.device)
        return spec if self.roof is None else self.roof.applied(spec)

    @property
    def _fewer(self) -> tuple[int, ...]:
        """The numbers of SMs, fewer than all, for which candidates are bundled too."""
        asked = self.spec.cores or [max(1, self.device.cores // part) for part in FEWER]
        return tuple(sorted({cores for cores in asked if cores < self.device.cores}, reverse=True))

    @property
    def _end(self) -> float:
        seconds = self.spec.budget.seconds
        return float("inf") if seconds is None else self._began + seconds

    def _exploring_ends(self) -> float:
        now = time.monotonic()
        return now + EXPLORING * max(0.0, self._end - now)

    def _left(self, kernels: Sequence[float]) -> float:
        """Seconds until the whole model has to be compiled, whose kernels took so many seconds each by themselves."""
        whole = self._slowness * (WRITING + KERNEL * len(kernels)) + sum(max(0.0, s - ALONE) for s in kernels)
        return self._end - whole - time.monotonic()

    def _share(self) -> float:
        seconds = self.spec.budget.seconds
        return EXPLORING if seconds is None else min(0.95, (time.monotonic() - self._began) / seconds)

    def _say(self, stage: Stage, message: str, done: float = 0.0) -> None:
        self.watch(Progress(stage, message, failed=self._failed, elapsed=time.monotonic() - self._began, done=done))
