"""An artifact for a GPU, made ready to run where that GPU is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tuner.build.artifact import LoadedModel
from tuner.errors import DeviceError, UserError
from tuner.gpu.cubins import serve_cubins
from tuner.gpu.detect import Gpu, detect
from tuner.gpu.executing import Execution, Launched, check_memory, ways_for
from tuner.gpu.program import Program
from tuner.gpu.sidebyside import of_plan
from tuner.plan.arranging import Branch
from tuner.plan.plan import Plan


@dataclass(frozen=True)
class GpuModel(LoadedModel):
    """As a LoadedModel; ``parameters`` are tensors on the GPU where TVM's virtual machine runs it, else None.

    ``how`` says how its kernels are launched, ``why`` what was tried before that and did not work.
    """

    device: Any = None  # tvm.runtime.Device
    execution: Execution | None = None
    launched: Launched | None = None
    how: str = "TVM's virtual machine"
    why: Sequence[str] = field(default=())

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Any:
        import tvm

        given = [np.ascontiguousarray(inputs[i["name"]]) for i in self.manifest["inputs"]]
        if self.execution is None or self.launched is None:
            main = self.machine["main"]
            args = [tvm.runtime.tensor(array, self.device) for array in given]
            return lambda: main(*args, *self.parameters)
        execution, launched = self.execution, self.launched
        execution.give(given)

        def run() -> Any:
            launched.launch()
            launched.finish()
            outputs = execution.outputs()
            return outputs[0] if len(outputs) == 1 else outputs

        return run


def load_on_gpu(folder: Path, manifest: Mapping[str, Any]) -> GpuModel:
    """Load an artifact whose files were checked.

    Raises DeviceError: no GPU that can be used is here (see ``detect``), ``other-device`` for one of another
    architecture, ``no-cuda`` when the CUDA runtime is missing, ``out-of-memory``; UserError (``bad-artifact``).
    """
    gpu = open_gpu(manifest, folder / "cubins")
    import tvm

    device, library = tvm.runtime.device("cuda", gpu.index), tvm.runtime.load_module(str(folder / "model.so"))
    launches = manifest.get("launches") or {"program": None, "why": None}
    if launches["program"] is None:
        return on_machine(folder, manifest, library, device, launches["why"])
    program = Program.from_json(launches["program"])
    stages = stages_of(folder, program)
    functions = [function_of(library, name) for name in launches["functions"]]
    execution = Execution(program, stages, functions, values_of(folder, manifest, program), device)
    launched = Launched(execution, device, ways_for(stages), gpu.index)
    return GpuModel(manifest, None, None, device, execution, launched, launched.how, tuple(launched.why))


def open_gpu(manifest: Mapping[str, Any], *cubins: Path) -> Gpu:
    """Look whether the GPU here can run the artifact, and have its machine code taken from ``cubins``.

    Raises DeviceError.
    """
    gpu, wanted = detect(), manifest["device"]["mcpu"]
    if gpu.arch != wanted:
        raise DeviceError(f"The artifact was built for {wanted}; the GPU here, {gpu.model}, is {gpu.arch}.",
                          code="other-device", hint="Build the model for this GPU.")  # fmt: skip
    try:
        serve_cubins(*cubins)
    except OSError as error:
        raise DeviceError(f"The CUDA runtime cannot be loaded: {error}.", code="no-cuda",
                          hint="Install it, for example: pip install 'fusetune[gpu]'.") from error  # fmt: skip
    return gpu


def on_machine(folder: Path, manifest: Mapping[str, Any], library: Any, device: Any, why: str | None) -> GpuModel:
    """The model in TVM's virtual machine, as any stock TVM would run it. Raises DeviceError (``out-of-memory``)."""
    import tvm
    from tvm.runtime.vm import VirtualMachine

    try:
        tensors = [tvm.runtime.tensor(array, device) for array in _arrays(folder, manifest["parameters"])]
        machine = VirtualMachine(library, device)
    except Exception as error:
        check_memory(error, sum(entry["bytes"] for entry in manifest["parameters"]))
        raise
    return GpuModel(manifest, machine, tensors, device, why=(why,) if why else ())


def stages_of(folder: Path, program: Program) -> tuple[tuple[Branch, ...], ...]:
    """The stages of an artifact's plan. Raises UserError (``bad-artifact``) if it is none of this program."""
    try:
        return of_plan(program, Plan.from_json(json.loads((folder / "plan.json").read_text())))
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{folder / 'plan.json'} cannot be used: {error}.", code="bad-artifact") from error


def values_of(folder: Path, manifest: Mapping[str, Any], program: Program) -> list[np.ndarray]:
    """Parameters and constants in the program's order."""
    return _arrays(folder, [*manifest["parameters"], *manifest["constants"]])


def function_of(library: Any, name: str) -> Callable[..., Any]:
    """A kernel's host function in a library. Raises UserError (``bad-artifact``) if there is none."""
    waiting = [library]
    while waiting:
        module = waiting.pop(0)
        if module.implements_function(name):
            found: Callable[..., Any] = module[name]
            return found
        waiting.extend(module.imports)
    raise UserError(f"The library has no kernel {name}.", code="bad-artifact")


def _arrays(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    blob = np.memmap(folder / "params.bin", np.uint8, "c")
    return [blob[p["offset"] : p["offset"] + p["bytes"]].view(p["dtype"]).reshape(p["shape"]) for p in entries]
