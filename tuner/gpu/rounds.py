"""Tuning on a GPU that is here: rounds of building on the CPU and measuring on the GPU, then the artifact, timed.

Each round is what ``--build-only`` and ``fusetune measure`` do, one behind the other on one machine: the candidates run
in a child of their own, so that one which hangs or spoils the context costs that child. Nothing of this process ever
opens the GPU.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tuner.errors import DeviceError
from tuner.events import Progress, Stage, Watch, silent
from tuner.gpu.build_only import BuildOnly
from tuner.gpu.bundle_run import Unusable, measure
from tuner.gpu.roof import GpuRoof
from tuner.gpu.timing import time_artifact
from tuner.store import NoStore, TrialStore
from tuner.types import Budget, Device, JobSpec

ROUNDS = 3  # at most; later ones know what earlier ones measured
SECONDS = 600.0  # where the job names none
FINAL = 0.25  # share of the time that the last build may take
_LEAST = 20.0  # s left for a round that is worth beginning

Measure = Callable[..., dict[str, Any]]


@dataclass
class Rounds:
    """Tunes one model for the GPU ``device`` that is here. ``stop`` ends it early, with what there is.

    ``turn`` holds the GPU while something is measured.
    """

    spec: JobSpec
    model: Path
    device: Device
    out: Path
    watch: Watch = silent
    store: TrialStore = field(default_factory=NoStore)
    turn: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
    measure: Measure = measure
    time: Callable[[Path], dict[str, Any]] = time_artifact
    roof: GpuRoof | None = None  # of the GPU, where somebody measured it
    _current: BuildOnly | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def stop(self) -> None:
        """Ask it to end with what it has."""
        self._stopped = True
        if self._current is not None:
            self._current.stop()

    def run(self) -> dict[str, Any]:
        """Do it; returns the report. Raises what BuildOnly raises, DeviceError where the GPU measures nothing."""
        began = time.monotonic()
        total = SECONDS if self.spec.budget.seconds is None else self.spec.budget.seconds
        trials = self.spec.budget.trials
        with tempfile.TemporaryDirectory(prefix="fusetune-") as scratch:
            results: list[Path] = []
            counted = 0
            for number in range(ROUNDS if trials != 0 else 0):
                left = (1 - FINAL) * total - (time.monotonic() - began)
                if self._stopped or left < _LEAST or (trials is not None and counted >= trials):
                    break
                share = left / (ROUNDS - number)
                budget = Budget(None if trials is None else trials - counted, share)
                folder = Path(scratch, f"round{number}")
                self._build(budget, folder, results)
                path = folder.with_suffix(".json")
                counted += self._measure(folder / "bundle", path, began + total)
                results.append(path)
            left = max(1.0, total - (time.monotonic() - began))
            report = self._build(Budget(0, left), self.out, results)
        return self._finish(report, counted, time.monotonic() - began)

    def _build(self, budget: Budget, folder: Path, results: Sequence[Path]) -> dict[str, Any]:
        spec = replace(self.spec, budget=budget)
        self._current = BuildOnly(
            spec, self.model, self.device, folder, list(results), self.watch, self.store, self.roof
        )
        if self._stopped:
            self._current.stop()
        return self._current.run()

    def _measure(self, bundle: Path, path: Path, until: float) -> int:
        """Measure a bundle; returns the number of candidates that were."""

        def say(text: str) -> None:
            self.watch(Progress(Stage.SEARCH, f"on the GPU, {text}"))

        try:
            with self.turn("candidates of a bundle"):
                found = self.measure(bundle, say=say, until=until)
        except Unusable as error:
            raise DeviceError(str(error), code="not-measurable") from error
        path.write_text(json.dumps(found))
        return len(found["results"])

    def _finish(self, report: dict[str, Any], counted: int, seconds: float) -> dict[str, Any]:
        """Time the artifact and have it say so."""
        self.watch(Progress(Stage.COMPARE, "timing the model on the GPU"))
        with self.turn("the whole model"):
            timed = self.time(self.out)
        samples = [1e3 * s for s in timed["samples"]]
        tuned = {"median": median(samples), "min": min(samples), "samples": len(samples)}
        report = report | {
            "measured": True,
            "seconds": report["seconds"] | {"total": seconds},
            "latency_ms": report["latency_ms"] | {"tuned": tuned},
            "trials": report["trials"] | {"measured": counted},
            "launches": report["launches"] | {"how": timed["how"], "failed": timed["why"]},
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        manifest = json.loads((self.out / "manifest.json").read_text())
        (self.out / "manifest.json").write_text(json.dumps(manifest | {"measured": True}, indent=1) + "\n")
        return report
