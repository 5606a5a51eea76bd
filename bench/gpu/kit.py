"""A kit: what a machine with a GPU needs of ours for one model, made where there is none. Small enough to travel.

    KIT/kit.json            model, batch, precision, architecture, whether the weights are in it
    KIT/tuned/              an artifact of `fusetune tune --build-only` with its bundle of candidates
    KIT/untuned/            TVM's default schedules: the same with --trials 0

Weights of larger models do not travel: for timing, others of the same shapes are drawn, equally on both artifacts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tuner.errors import UserError
from tuner.types import Budget, JobSpec

TUNED, UNTUNED = "tuned", "untuned"
MOST_WEIGHTS = 8 << 20  # B of an artifact's weights that travel
SEED = 7  # of drawn weights and inputs


@dataclass(frozen=True)
class Setting:
    """What is measured: a model of bench.peers.models at a batch and precision."""

    model: str
    batch: int
    precision: str

    @property
    def name(self) -> str:
        return f"{self.model}-b{self.batch}-{self.precision}"


@dataclass(frozen=True)
class Kit:
    """kit.json."""

    model: str
    batch: int
    precision: str
    device: str
    arch: str
    weights: bool  # whether the artifacts have theirs
    seconds: float  # that exploring and compiling was given


def read_kit(folder: Path, setting: Setting) -> Kit:
    """The kit of this setting. Raises UserError (``no-kit``) when the folder holds none, or another's."""
    try:
        kit = Kit(**json.loads((folder / "kit.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder} holds no kit: {error}.", code="no-kit") from error
    if (kit.model, kit.batch, kit.precision) != (setting.model, setting.batch, setting.precision):
        raise UserError(f"{folder} is a kit of {kit.model}-b{kit.batch}-{kit.precision}.", code="no-kit")
    return kit


def prepare(
    setting: Setting, device_name: str, folder: Path, seconds: float, results: Sequence[Path] = ()
) -> Kit:  # fmt: skip
    """Build a kit into ``folder`` (replaced). Needs TVM, nvcc and no GPU; raises what BuildOnly raises."""
    from tuner.gpu.build_only import BuildOnly
    from tuner.measure.device import devices

    device = devices(device_name)
    work = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    path = write_model(setting, work / f"{setting.model}.onnx")
    for part, budget, brought in ((TUNED, Budget(None, seconds), results), (UNTUNED, Budget(0, None), ())):
        spec = JobSpec(model="", device=device_name, strategy="metaschedule", budget=budget,
                       precision=setting.precision)  # fmt: skip
        BuildOnly(spec, path, device, work / part, brought).run()
    path.unlink()
    weights = all((work / part / "params.bin").stat().st_size <= MOST_WEIGHTS for part in (TUNED, UNTUNED))
    if not weights:
        for part in (TUNED, UNTUNED):
            (work / part / "params.bin").unlink()
    kit = Kit(setting.model, setting.batch, setting.precision, device_name, device.mcpu, weights, seconds)
    (work / "kit.json").write_text(json.dumps(asdict(kit), indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    return kit


def write_model(setting: Setting, path: Path) -> Path:
    """Write the model with this batch: the zoo's have one image, which their reshapes name too."""
    import onnx
    from onnx import numpy_helper

    from bench.peers.models import write

    write(setting.model, path)
    if setting.batch == 1:
        return path
    model = onnx.load_model(str(path))
    graph = model.graph
    fixed = {each.name: each for each in graph.initializer}
    for value in [v for v in graph.input if v.name not in fixed]:
        value.type.tensor_type.shape.dim[0].dim_value = setting.batch
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    for node in graph.node:
        if node.op_type == "Concat":  # a class token is one a picture
            for name in {n for n in node.input if n in fixed and list(fixed[n].dims[:1]) == [1]}:
                fixed[name].CopyFrom(
                    numpy_helper.from_array(np.repeat(numpy_helper.to_array(fixed[name]), setting.batch, 0), name)
                )
        if node.op_type != "Reshape" or node.input[0] in fixed or node.input[1] not in fixed:
            continue
        shape = numpy_helper.to_array(fixed[node.input[1]]).copy()
        if len(shape) and shape[0] == 1:
            shape[0] = setting.batch
            name = f"{node.input[1]}/{node.output[0]}"  # others may read the same shape
            graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def images(wanted: Mapping[str, tuple[Sequence[int], str]]) -> dict[str, np.ndarray]:
    """Seeded inputs by name, given (shape, dtype), the same for all contenders."""
    random = np.random.default_rng(SEED)
    found = {}
    for name, (shape, dtype) in wanted.items():
        floats = random.standard_normal(tuple(shape), dtype=np.float32)
        found[name] = floats if np.dtype(dtype).kind == "f" else (floats > 0).astype(dtype)
    return found


def inputs_of(manifest: Mapping[str, Any]) -> list[np.ndarray]:
    """The same of an artifact's inputs, in order."""
    return list(images({each["name"]: (each["shape"], each["dtype"]) for each in manifest["inputs"]}).values())


def values(folder: Path, manifest: Mapping[str, Any], *, constants: bool = True) -> list[np.ndarray]:
    """An artifact's parameters, then (asked for) its constants: from its file, or drawn where that stayed behind."""
    entries = [*manifest["parameters"], *(manifest["constants"] if constants else ())]
    if (folder / "params.bin").exists():
        blob = np.memmap(folder / "params.bin", np.uint8, "c")
        return [blob[p["offset"] : p["offset"] + p["bytes"]].view(p["dtype"]).reshape(p["shape"]) for p in entries]
    random = np.random.default_rng(SEED)
    return [_drawn(tuple(p["shape"]), p["dtype"], random) for p in entries]


def own_seconds(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Seconds expected of the kernels in an artifact's library, by task."""
    return {
        each["workload"]: 1e-3 * (each["ms"] if each["ms"] is not None else each["predicted_ms"])
        for each in manifest["kernels"]
    }


def size_of(folder: Path) -> int:
    """Bytes of all files under it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _drawn(shape: tuple[int, ...], dtype: str, random: np.random.Generator) -> np.ndarray:
    """Values that keep activations near 1: a matrix or filter divided by the root of what it sums over."""
    if np.dtype(dtype).kind != "f":
        return np.ones(shape, dtype)
    summed = prod(shape) / max(shape) if len(shape) > 1 else 100.0
    return (random.standard_normal(shape, dtype=np.float32) / summed**0.5).astype(dtype)
