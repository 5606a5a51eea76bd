"""What one process of the crew does: orders in, answers out, both JSON; functions and libraries go through files.

``explore``: the default schedule of a task and points of its design spaces, with what their loops do.
``compile``: a candidate's check, its library and machine code. ``verify``: the whole lowered model's check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from tuner.designs.context import load_intrinsics
from tuner.designs.tf32_intrinsics import register
from tuner.errors import CandidateError
from tuner.gpu.checking import check_lowering, check_schedule, reference_of
from tuner.gpu.cubins import SUFFIX
from tuner.gpu.cuda import build_kernel, target_of
from tuner.gpu.explore import Explorer, Scheduled
from tuner.gpu.lower import Lowered, Task
from tuner.gpu.nvcc import Compiler
from tuner.gpu.precision import FP16, TF32
from tuner.gpu.roof import GpuRoof
from tuner.gpu.spec import spec_of
from tuner.graph.ir import Graph
from tuner.inputs import Inputs
from tuner.types import Candidate, Device

_TASKS_KEPT = 4  # explorers of a process: a task's orders come close behind one another


def handler(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What serves the orders of one process; see tuner.measure.child."""
    shop = _Shop(
        Device.from_json(config["device"]), Compiler.from_json(config["compiler"]), int(config["seed"]),
        str(config["precision"]), GpuRoof.from_json(config["roof"]) if config.get("roof") else None,
    )  # fmt: skip
    orders = {"explore": shop.explore, "compile": shop.compile, "verify": shop.verify}
    return lambda request: orders[request["order"]](request)


class _Shop:
    def __init__(self, device: Device, compiler: Compiler, seed: int, precision: str, roof: GpuRoof | None) -> None:
        self._device, self._compiler, self._seed, self._precision = device, compiler, seed, precision
        self._target, self._spec = target_of(device), spec_of(device)
        if roof is not None:
            self._spec = roof.applied(self._spec)
        self._explorers: dict[str, Explorer] = {}
        if precision == FP16:
            load_intrinsics("cuda")  # now, while there is nothing to do yet
        elif precision == TF32:
            register()

    def explore(self, request: Mapping[str, Any]) -> dict[str, Any]:
        explorer = self._explorer(request["task"], request["spaces"])
        made = []
        if not explorer.task.parts:  # a chain has its parts to fall back on
            made.append(explorer.default())
            Path(request["default"]).write_text(tvm.ir.save_json(made[0].function))
        for known in request["known"]:
            with suppress(CandidateError):
                made.append(explorer.remake(Candidate.from_json(known)))
        if request["points"] and time.monotonic() < request["until"]:
            random = np.random.default_rng(request["random"])
            made += explorer.draw(request["points"], random, request["until"])
        seen = {each.key: each.to_json() for each in made}
        return {"seen": list(seen.values()), "refused": explorer.refused, "why": explorer.why}

    def compile(self, request: Mapping[str, Any]) -> dict[str, Any]:
        explorer = self._explorer(request["task"])
        task = explorer.task
        error = None
        try:
            scheduled = explorer.remake(Candidate.from_json(request["candidate"]))
            if request["check"]:
                error = self._check(scheduled, task, Path(request["check"]), request["operations"])
            began = time.monotonic()
            module = tvm.IRModule({"main": scheduled.function})
            library = Path(request["library"])
            built = build_kernel(module, self._target, library, self._device.mcpu, self._compiler)
        except CandidateError as failure:
            return {"failed": failure.code, "message": failure.message}
        seconds = time.monotonic() - began
        for digest, cubin in built.cubins.items():
            Path(request["cubins"], f"{digest}{SUFFIX}").write_bytes(cubin.code)
        Path(request["function"]).write_text(tvm.ir.save_json(scheduled.function))
        return {
            "cubins": {digest: asdict(cubin) | {"code": None} for digest, cubin in built.cubins.items()},
            "error": error,
            "way": built.way,
            "seconds": seconds,
        }

    def _check(self, scheduled: Scheduled, task: Task, expected: Path, most: float) -> float | None:
        """``check_schedule`` against what TVM's own CPU code computes, which is written to ``expected``."""
        try:
            reference = reference_of(task, self._seed)
        except (tvm.error.InternalError, ValueError, RuntimeError):
            return None  # nothing to compare with
        np.save(expected, reference.output, allow_pickle=False)
        return check_schedule(scheduled, task, reference, most)

    def verify(self, request: Mapping[str, Any]) -> dict[str, Any]:
        lowered = Lowered.load(Path(request["folder"]))
        graph = Graph.from_json(request["graph"])
        inputs = Inputs(graph, {}, self._seed).sets
        path, limit = Path(request["model"]), request["limit"]
        return asdict(check_lowering(lowered, graph, path, inputs, limit, self._precision))

    def _explorer(self, path: str, spaces: bool = True) -> Explorer:
        if path not in self._explorers:
            while len(self._explorers) >= _TASKS_KEPT:
                del self._explorers[next(iter(self._explorers))]
            self._explorers[path] = Explorer(
                Task.load(Path(path)), self._target, self._spec, precision=self._precision, spaces=spaces
            )
        return self._explorers[path]
