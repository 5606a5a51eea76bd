"""The artifact: what a user takes home. Written whole or not at all; loading checks that the machine is up to it.

``model.so`` holds code only; ``params.bin`` the packed constants, each at a multiple of 64 bytes; ``manifest.json``
says what both are, with their SHA-256. Constants are read into huge pages where the system has them: a mapped file has
small ones, and layers that stream their weights wait for the translation of addresses.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuner.errors import DeviceError, UserError

ALIGNMENT = 64  # bytes; what TVM asks of a tensor's data
FORMAT = 1

README = """\
This folder holds a neural network tuned by fusetune for one processor (see "device" in manifest.json).

model.so + params.bin   the compiled model and its weights
manifest.json           inputs, outputs, checksums, processor features needed
plan.json report.json   how it is built and what was measured
trials.jsonl            every candidate tried
tuning_log/             the same as a TVM MetaSchedule database

To run it, Python with apache-tvm is enough:

    import json, mmap, os, numpy as np
    folder = "."
    manifest = json.load(open(folder + "/manifest.json"))
    os.environ["TVM_NUM_THREADS"] = str(manifest["cores"])
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"  # 3 MB of code instead of the whole compiler
    import tvm, tvm_ffi
    from tvm.runtime.vm import VirtualMachine
    blob = mmap.mmap(-1, os.path.getsize(folder + "/params.bin"))
    blob.madvise(mmap.MADV_HUGEPAGE)  # of Linux; weights stream faster from huge pages than from a mapped file
    open(folder + "/params.bin", "rb").readinto(blob)
    view = lambda p: np.frombuffer(blob, np.uint8, p["bytes"], p["offset"]).view(p["dtype"]).reshape(p["shape"])
    params = tvm_ffi.convert([tvm.runtime.from_dlpack(view(p)) for p in manifest["parameters"]])
    vm = VirtualMachine(tvm.runtime.load_module(folder + "/model.so"), tvm.cpu())
    inputs = [np.zeros(i["shape"], i["dtype"]) for i in manifest["inputs"]]  # your data here
    output = vm["main"](*[tvm.runtime.tensor(x) for x in inputs], params)

"output" is one tensor, or a tuple of them in the order of manifest["outputs"]; output.numpy() gives the numbers.
"""


def write_parameters(arrays: Iterable[tuple[str, np.ndarray]], path: Path) -> list[dict[str, Any]]:
    """Write arrays one behind the other, aligned; returns the manifest's entries for them."""
    entries = []
    with path.open("wb") as file:
        for name, array in arrays:
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            data = np.asarray(array, order="C")  # ascontiguousarray would give scalars an axis
            entries.append(
                {"name": name, "shape": list(data.shape), "dtype": str(data.dtype), "offset": file.tell(),
                 "bytes": data.nbytes}
            )  # fmt: skip
            file.write(data.reshape(-1).view(np.uint8).data)
        if not file.tell():
            file.write(b"\0" * ALIGNMENT)  # an empty file cannot be mapped
    return entries


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write manifest.json for a folder that holds model.so and params.bin; ``facts`` are its other entries."""
    sums = {name: _sha256(folder / name) for name in ("model.so", "params.bin")}
    (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "sha256": sums, **facts}, indent=1) + "\n")
    (folder / "README.txt").write_text(README)


@dataclass(frozen=True)
class LoadedModel:
    """An artifact ready to run; ``run`` takes arrays by input name and gives arrays by output name."""

    manifest: Mapping[str, Any]
    machine: Any  # tvm.runtime.vm.VirtualMachine
    parameters: Any

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Any:
        """A function without arguments that runs the model on these inputs and gives TVM's result (for timing)."""
        import tvm

        main = self.machine["main"]
        args = [tvm.runtime.tensor(np.asarray(inputs[i["name"]], order="C")) for i in self.manifest["inputs"]]
        parameters = self.parameters
        return lambda: main(*args, parameters)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises UserError for a missing input or one of the wrong shape or type."""
        self._check(inputs)
        result = self.prepare(inputs)()
        names = [o["name"] for o in self.manifest["outputs"]]
        values = [result] if len(names) == 1 else list(result)
        return {name: value.numpy() for name, value in zip(names, values, strict=True)}

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        for entry in self.manifest["inputs"]:
            name, shape, dtype = entry["name"], tuple(entry["shape"]), entry["dtype"]
            if name not in inputs:
                raise UserError(f"Input {name!r} ({dtype} {list(shape)}) is missing.", code="bad-input")
            if inputs[name].shape != shape or str(inputs[name].dtype) != dtype:
                raise UserError(
                    f"Input {name!r} is {inputs[name].dtype} {list(inputs[name].shape)}, the model wants {dtype} "
                    f"{list(shape)}.",
                    code="bad-input",
                )
        known = {i["name"] for i in self.manifest["inputs"]}
        if extra := set(inputs) - known:
            raise UserError(f"The model has no input {min(extra)!r}; it has {sorted(known)}.", code="bad-input")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact. Raises UserError when the folder holds none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no artifact: {error}.", code="no-artifact") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{folder} holds an artifact of another format.", code="no-artifact")
    return manifest


def load(folder: Path, *, check: bool = True) -> LoadedModel:
    """Load an artifact.

    Raises:
        UserError: it is not an artifact, or a file was changed since it was written (``check``).
        DeviceError: this processor lacks a feature that the code uses, or the GPU it is for is not here.
    """
    manifest = read_manifest(folder)
    on_gpu = manifest["device"]["kind"] == "cuda"
    if not on_gpu:
        require_features(manifest["device"]["features"])
    if check:
        for name, expected in manifest["sha256"].items():
            if not (folder / name).exists() or _sha256(folder / name) != expected:
                raise UserError(f"{folder / name} is missing or was changed since it was written.", code="bad-artifact")
    if on_gpu:
        from tuner.gpu.loading import load_on_gpu

        return load_on_gpu(folder, manifest)
    os.environ["TVM_NUM_THREADS"] = str(manifest["cores"])  # TVM alone would halve the cores on x86
    import tvm
    import tvm_ffi
    from tvm.runtime.vm import VirtualMachine

    blob = _read(folder / "params.bin")
    tensors = [
        tvm.runtime.from_dlpack(blob[p["offset"] : p["offset"] + p["bytes"]].view(p["dtype"]).reshape(p["shape"]))
        for p in manifest["parameters"]
    ]
    machine = VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())
    return LoadedModel(manifest, machine, tvm_ffi.convert(tensors))


def _read(path: Path) -> np.ndarray:
    """A file's bytes in memory of our own, in huge pages where there are any."""
    with path.open("rb") as file:
        memory = mmap.mmap(-1, path.stat().st_size)
        with suppress(AttributeError, OSError):  # another system, or one that has none
            memory.madvise(mmap.MADV_HUGEPAGE)
        file.readinto(memory)
    return np.frombuffer(memory, np.uint8)


def require_features(features: Sequence[str]) -> None:
    """Raise DeviceError(code="lesser-machine") naming the instruction sets that this processor lacks."""
    from tuner.measure.device import cpu_features

    if missing := sorted(set(features) - set(cpu_features())):
        raise DeviceError(
            f"This processor lacks {', '.join(missing)}, which the artifact was built for.",
            code="lesser-machine",
            hint="Tune the model again on this machine.",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
