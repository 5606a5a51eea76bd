"""An artifact for a GPU, made ready to run where that GPU is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuner.build.artifact import LoadedModel
from tuner.errors import DeviceError
from tuner.gpu.cubins import serve_cubins
from tuner.gpu.detect import detect


@dataclass(frozen=True)
class GpuModel(LoadedModel):
    """As a LoadedModel; ``parameters`` is a list of tensors on the GPU."""

    device: Any = None  # tvm.runtime.Device

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Any:
        import tvm

        main = self.machine["main"]
        args = [tvm.runtime.tensor(np.ascontiguousarray(inputs[i["name"]]), self.device)
                for i in self.manifest["inputs"]]  # fmt: skip
        return lambda: main(*args, *self.parameters)


def load_on_gpu(folder: Path, manifest: Mapping[str, Any]) -> GpuModel:
    """Load an artifact whose files were checked.

    Raises DeviceError: no GPU that can be used is here (see ``detect``), ``other-device`` for one of another
    architecture, ``no-cuda`` when the CUDA runtime is missing.
    """
    gpu = detect()
    wanted = manifest["device"]["mcpu"]
    if gpu.arch != wanted:
        raise DeviceError(f"The artifact was built for {wanted}; the GPU here, {gpu.model}, is {gpu.arch}.",
                          code="other-device", hint="Build the model for this GPU.")  # fmt: skip
    try:
        serve_cubins(folder / "cubins")
    except OSError as error:
        raise DeviceError(f"The CUDA runtime cannot be loaded: {error}.", code="no-cuda",
                          hint="Install it, for example: pip install 'fusetune[gpu]'.") from error  # fmt: skip
    import tvm
    from tvm import relax

    device = tvm.runtime.device("cuda", gpu.index)
    blob = np.memmap(folder / "params.bin", np.uint8, "c")
    tensors = [
        tvm.runtime.tensor(blob[p["offset"] : p["offset"] + p["bytes"]].view(p["dtype"]).reshape(p["shape"]), device)
        for p in manifest["parameters"]
    ]
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), device)
    return GpuModel(manifest, machine, tensors, device)
