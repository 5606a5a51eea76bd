"""Our models, and TVM's untuned, as contenders: artifacts of a kit, run with the TVM runtime alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.gpu.kit import TUNED, UNTUNED, inputs_of, own_seconds, values
from tuner.build.artifact import read_manifest
from tuner.errors import UserError
from tuner.gpu.executing import Execution, Launched, ways_for
from tuner.gpu.loading import function_of, open_gpu
from tuner.gpu.program import Program
from tuner.gpu.selecting import Kernel, Selection, Selector
from tuner.gpu.spec import spec_of


class OnProgram:
    """The tuned artifact with the kernels that its bundle's results say are the fastest; ``turns``: no branches."""

    def __init__(self, kit: Path, results: Path | None, turns: bool) -> None:
        import tvm

        folder = kit / TUNED
        manifest = read_manifest(folder)
        launches = manifest["launches"]
        if launches["program"] is None:
            raise UserError(str(launches["why"]), code="no-program")
        gpu = open_gpu(manifest, folder / "cubins", folder / "bundle" / "cubins")
        program = Program.from_json(launches["program"])
        found = json.loads(results.read_text())["results"] if results is not None else []
        selector = Selector(program, own_seconds(manifest), found, spec_of(gpu.device()))
        selection: Selection = selector.in_turn() if turns else selector.side_by_side()
        device = tvm.runtime.device("cuda", gpu.index)
        kernel = _kernels(folder)
        functions = [kernel(each) for each in selection.kernels]
        self._execution = Execution(program, selection.stages, functions, values(folder, manifest), device)
        self._execution.give(inputs_of(manifest))
        self._launched = Launched(self._execution, device, ways_for(selection.stages), gpu.index)
        self._names = [each["name"] for each in manifest["outputs"]]
        self.note: Mapping[str, Any] = {
            "how": self._launched.how, "why": self._launched.why, "kernels": len(program.calls),
            "kernels_measured": selection.measured, "expected_ms": 1e3 * selection.seconds,
            "forks": sum(len(stage) > 1 for stage in selection.stages),
        }  # fmt: skip

    def run(self) -> None:
        self._launched.launch()
        self._launched.finish()

    def outputs(self) -> dict[str, np.ndarray]:
        tensors = self._execution.outputs()
        return {name: tensor.numpy() for name, tensor in zip(self._names, tensors, strict=True)}


class OnMachine:
    """TVM's default schedules, run by TVM's virtual machine."""

    def __init__(self, kit: Path) -> None:
        import tvm
        from tvm.runtime.vm import VirtualMachine

        folder = kit / UNTUNED
        manifest = read_manifest(folder)
        gpu = open_gpu(manifest, folder / "cubins")
        self._device = tvm.runtime.device("cuda", gpu.index)
        main = VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), self._device)["main"]
        given = [*inputs_of(manifest), *values(folder, manifest, constants=False)]
        args = [tvm.runtime.tensor(np.ascontiguousarray(array), self._device) for array in given]
        self._call = lambda: main(*args)
        self._result: Any = None
        self._names = [each["name"] for each in manifest["outputs"]]
        self.note: Mapping[str, Any] = {"how": "TVM's virtual machine"}

    def run(self) -> None:
        self._result = self._call()
        self._device.sync()

    def outputs(self) -> dict[str, np.ndarray]:
        several = [self._result] if len(self._names) == 1 else list(self._result)
        return {name: tensor.numpy() for name, tensor in zip(self._names, several, strict=True)}


def open_ours(config: Mapping[str, Any]) -> OnProgram | OnMachine:
    """A child's model. Raises UserError without a kit, DeviceError where it cannot run."""
    if config["kit"] is None:
        raise UserError("there is no kit of this model: python -m bench.gpu --prepare makes it", code="no-kit")
    kit = Path(config["kit"])
    if config["contender"] == "tvm":
        return OnMachine(kit)
    results = Path(config["results"]) if config["results"] else None
    return OnProgram(kit, results, turns=config["contender"] == "sequential")


def _kernels(folder: Path) -> Callable[[Kernel], Any]:
    """Loads each library once."""
    import tvm

    loaded: dict[str | None, Any] = {}

    def kernel(which: Kernel) -> Any:
        if which.library not in loaded:
            path = folder / "model.so" if which.library is None else folder / "bundle" / which.library
            loaded[which.library] = tvm.runtime.load_module(str(path))
        return function_of(loaded[which.library], which.name)

    return kernel
