"""Bundles: candidates compiled here, to be measured where the GPU is; and what comes back from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuner.errors import UserError
from tuner.gpu import bundle_run, cubins
from tuner.gpu.cuda import Built
from tuner.gpu.explore import Seen
from tuner.gpu.lower import Task
from tuner.types import Candidate, Device, Failure, FailureKind, Purpose, Trial

README = """\
Candidates for one GPU (see "arch" in bundle.json), compiled by fusetune and not yet measured. Where the GPU is:

    python measure.py                # with Python, NumPy, apache-tvm and the CUDA 13 runtime; writes results.json
    fusetune measure FOLDER          # the same, where fusetune is installed

and then, where the bundle was made: fusetune tune MODEL --device NAME --build-only --results results.json
A bundle is code: measure only what you trust.
"""
MOST_EXPECTED = 1 << 16  # values of a task's output, about, that a bundle holds: bundles travel


class Bundle:
    """A bundle being written into ``folder`` (created)."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self._seed = folder, seed
        self._tasks: dict[str, dict[str, Any]] = {}
        self._candidates: list[dict[str, Any]] = []
        for part in ("kernels", "cubins", "expected"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._candidates)

    def holds(self, task: Task) -> bool:
        """Whether there are candidates of a task."""
        return any(candidate["task"] == task.hash for candidate in self._candidates)

    def add_task(self, task: Task, expected: np.ndarray | None) -> None:
        """Take a task, with its output for ``arguments(task.args, seed)`` if that is known."""
        entry = {"hash": task.hash, "name": task.name, "calls": task.calls, "args": [list(a) for a in task.args]}
        if expected is not None:
            entry["step"] = step = max(1, expected.size // MOST_EXPECTED) | 1
            values = np.ascontiguousarray(expected).reshape(-1)[::step]
            np.save(self.folder / "expected" / f"{task.hash[:16]}.npy", values, allow_pickle=False)
        path = None if expected is None else f"expected/{task.hash[:16]}.npy"
        self._tasks[task.hash] = entry | {"expected": path}

    def library(self, seen: Seen) -> Path:
        """Where the library of a candidate is to be built."""
        return self.folder / "kernels" / f"{seen.key[:16]}.so"

    def add(self, seen: Seen, built: Built, predicted: float, sms: int | None = None) -> None:
        """Take a candidate whose library stands at ``library(seen)``; its task must be known when it is finished.

        ``sms``: how many its blocks fill.
        """
        write_cubins(built, self.folder / "cubins")
        c = seen.candidate
        self._candidates.append(
            {"key": seen.key, "task": c.workload_hash, "template": c.template, "version": c.template_version,
             "knobs": dict(c.knobs), "cores": c.cores, "precision": c.precision, "predicted": predicted,
             "sms": sms or c.cores, "library": f"kernels/{built.library.name}"}
        )  # fmt: skip

    def finish(
        self, model: Mapping[str, Any], device: Device, arch: str, toolchain: str, precision: str = "fp32"
    ) -> None:
        """Write what makes the folder a bundle. ``arch``: "sm_86", or "cpu" for kernels of this processor."""
        text = {"format": bundle_run.FORMAT, "model": dict(model), "arch": arch, "device": device.to_json(),
                "toolchain": toolchain, "precision": precision, "seed": self._seed, "tasks": list(self._tasks.values()),
                "candidates": self._candidates}  # fmt: skip
        (self.folder / "bundle.json").write_text(json.dumps(text, indent=1) + "\n")
        shutil.copyfile(bundle_run.__file__, self.folder / "measure.py")
        shutil.copyfile(cubins.__file__, self.folder / "cubins.py")
        (self.folder / "README.txt").write_text(README)


def write_cubins(built: Built, folder: Path) -> None:
    """Write what a library needs of machine code into ``folder`` (created)."""
    folder.mkdir(parents=True, exist_ok=True)
    for digest, cubin in built.cubins.items():
        (folder / f"{digest}{cubins.SUFFIX}").write_bytes(cubin.code)


@dataclass(frozen=True)
class Results:
    """What bundles brought back: trials whose ``candidate.workload_hash`` names the task, and where they ran."""

    trials: tuple[Trial, ...] = ()
    devices: tuple[Mapping[str, Any], ...] = ()

    def of(self, task: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.candidate.workload_hash == task]


def read_results(paths: Sequence[Path], model: str, arch: str, device: Device, precision: str = "fp32") -> Results:
    """Read results.json files about the model of this SHA-256. Of one candidate measured twice the later file counts.

    Raises UserError: ``bad-results`` for files that are none, ``other-model``, ``other-device``, ``other-precision``
    for those of another model, architecture or GPU, precision.
    """
    trials: dict[str, Trial] = {}
    devices = []
    for path in paths:
        try:
            data = json.loads(path.read_text())
            if data["format"] != bundle_run.FORMAT:
                raise ValueError("it is of another format")
            found = [_trial(entry, device) for entry in data["results"]]
            where, of_model, of_arch = data["device"], data["model"]["sha256"], data["arch"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} holds no results of a bundle: {error!r}.", code="bad-results") from error
        if of_model != model:
            raise UserError(f"The results {path} are of another model.", code="other-model")
        if of_arch != arch or where.get("model") not in {device.model, "cpu"}:
            raise UserError(
                f"The results {path} come from {where.get('model')} ({of_arch}), not from {device.model}.",
                code="other-device",
            )
        if other := {t.candidate.precision for t in found} - {precision}:
            raise UserError(f"The results {path} are in {other.pop()}, not in {precision}.", code="other-precision")
        devices.append(where)
        trials |= {trial.candidate.key: trial for trial in found}
    return Results(tuple(trials.values()), tuple(devices))


def _trial(entry: Mapping[str, Any], device: Device) -> Trial:
    candidate = Candidate(
        workload={}, workload_hash=str(entry["task"]), layouts={}, template=str(entry["template"]),
        template_version=int(entry["version"]), knobs={str(k): int(v) for k, v in entry["knobs"].items()},
        cores=int(entry.get("cores", device.cores)), precision=str(entry.get("precision", "fp32")),
    )  # fmt: skip
    failure = entry["failure"]
    return Trial(
        candidate,
        Purpose.SEARCH,
        samples=tuple(float(s) for s in entry["samples"]),
        failure=Failure(FailureKind(failure["kind"]), str(failure["message"])) if failure else None,
        max_rel_error=entry["max_rel_error"],
        predicted=float(entry["predicted"]),
    )
