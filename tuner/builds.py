"""The whole models that one job builds: each kernel is compiled once, whichever plans call it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from tuner.build.assemble import Step
from tuner.build.blocks import kernels_of
from tuner.build.export import build_artifact
from tuner.build.objects import Objects
from tuner.graph.load import ImportedModel
from tuner.measure.compiling import compile_ahead
from tuner.measure.device import toolchain
from tuner.plan.plan import Plan
from tuner.types import Candidate, Device


@dataclass(frozen=True)
class BuildCost:
    """Seconds that building a whole model took: compiling its kernels, and all else."""

    compiling: float = 0.0
    rest: float = 0.0

    def of(self, share: float) -> float:
        """Of one that has this share of its kernels still to compile."""
        return self.rest + share * self.compiling


@dataclass(frozen=True)
class ModelMemory:
    """Bytes that a built model takes by itself: what it is made of, without libraries and inputs."""

    weights: int  # as its kernels want them
    activations: int  # buffers between kernels, and outputs

    @property
    def bytes(self) -> int:
        return self.weights + self.activations


class Builds:
    """Builds plans of one model for one device into folders below ``scratch``.

    ``objects`` is where compiled kernels are kept: what a runner leaves there is not compiled again.
    """

    def __init__(self, model: ImportedModel, device: Device, scratch: Path) -> None:
        self._model, self._device, self._scratch = model, device, scratch
        self._objects = Objects(scratch / "objects")
        self.objects = str(self._objects.folder)
        self.seconds = 0.0  # of all builds
        self.first = BuildCost()  # what the first build took, which found nothing compiled

    def folder(self, name: str) -> Path:
        return self._scratch / name

    def memory(self, name: str) -> ModelMemory:
        """Of the model that was built into the folder of this name."""
        manifest = json.loads((self.folder(name) / "manifest.json").read_text())
        return ModelMemory(sum(e["bytes"] for e in manifest["parameters"]), manifest["memory"]["activations"])

    def weigh(self, candidate: Candidate) -> int:
        """Bytes of a kernel's packed constants; it is compiled if it was not yet."""
        kernel = self._objects.compiled(candidate, self._device)
        constants = (arg for arg in kernel.args if arg.role == "constant")
        return sum(prod(arg.shape) * np.dtype(arg.dtype).itemsize for arg in constants)

    def build(self, plan: Plan, name: str) -> list[Step]:
        """Build a valid plan into the folder of this name, which must be empty or not there; its kernel calls."""
        began, before = time.monotonic(), self._objects.seconds
        model, device = self._model, self._device
        facts = {"model": {"name": model.name, "sha256": model.sha256}, "toolchain": toolchain(), "plan": plan.hash}
        compile_ahead(kernels_of(model.graph, plan, device), device, self._objects, self._scratch)
        compiling = time.monotonic() - began
        steps = build_artifact(
            self.folder(name), model.graph, model.weights, plan, device, facts, self._objects
        )  # fmt: skip
        compiling += self._objects.seconds - before
        seconds = time.monotonic() - began
        if self.first == BuildCost():
            self.first = BuildCost(compiling, seconds - compiling)
        self.seconds += seconds
        return steps
