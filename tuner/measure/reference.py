"""What a workload's outputs must be: seeded random inputs and weights, and ONNX Runtime's float32 answer.

A reference is a folder with one flat file of all arrays and an index; the measuring child maps it into memory, so that
large weights exist once however many processes look at them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from tuner.errors import CandidateError
from tuner.graph.ir import Constant, Graph, Tensor
from tuner.measure.operands import rounding_operands
from tuner.measure.options import MeasureOptions
from tuner.plan import int8
from tuner.plan.bf16 import STEP, dotted_layers, rounded, weight_names
from tuner.plan.int8 import grid, quantised_layers
from tuner.plan.layout import RANGE, derived, is_narrow
from tuner.precision import BF16, BF16_DOT, FP32, INT8
from tuner.types import Candidate

_BLOCK = 1048573  # random numbers that are really drawn (4 MB); prime, so that repeats never line up with rows
_FED = 1 << 20  # bytes from which a weight is fed to ONNX Runtime in place instead of copied into the model
_ALIGN = 64
_POSITIVE = {"Sqrt": 0, "Log": 0, "Pow": 0, "Reciprocal": 0, "Div": 1, "Mod": 1}  # op -> operand to keep away from 0
_NORM_VARIANCE, _NORM_SCALE = 4, 1  # operands of BatchNormalization


@dataclass(frozen=True)
class Reference:
    """Logical arrays by the workload's names. ``folder`` is where they lie."""

    folder: Path
    inputs: Mapping[str, np.ndarray]
    constants: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def max_rel_error(got: np.ndarray, truth: np.ndarray) -> float:
    """max|got - truth| / max|truth|; infinite when one has a NaN or an infinity that the other has not.

    Absolute when the truth is all zeros. Integers and booleans are compared as numbers.
    """
    if not truth.size:
        return 0.0
    if truth.dtype.kind != "f":
        got, truth = got.astype(np.float64), truth.astype(np.float64)
    scale = max(float(truth.max()), -float(truth.min()))
    with np.errstate(invalid="ignore"):  # infinity minus infinity is looked at below
        difference = np.subtract(got, truth)
    worst = max(float(difference.max()), -float(difference.min()))
    if np.isfinite(worst) and np.isfinite(scale):
        return worst / scale if scale else worst
    odd = ~np.isfinite(truth)
    if not np.array_equal(got[odd], truth[odd], equal_nan=True) or not np.isfinite(got[~odd]).all():
        return float("inf")
    return max_rel_error(got[~odd], truth[~odd])


def unrounded_error(got: np.ndarray, truth: np.ndarray) -> float:
    """``max_rel_error`` of numbers that were rounded to bfloat16 at last, beyond what that may have moved each."""
    difference = np.subtract(got, truth)
    beyond = np.maximum(np.abs(difference) - np.float32(STEP) * np.abs(truth), 0)
    return max_rel_error(truth + np.copysign(beyond, difference), truth)


def narrow_inputs(candidate: Candidate) -> list[str]:
    """Inputs that a candidate's kernel gets as bfloat16."""
    given = set(candidate.workload.get("inputs", ()))
    return sorted(name for name, layout in candidate.layouts.items() if name in given and is_narrow(layout))


def reference_name(workload_hash: str, precision: str, narrow: Collection[str], *more: str) -> str:
    """Name of a reference: of what ``make_reference`` depends on, and ``more``."""
    return "-".join([workload_hash[:40], *more, precision, *sorted(narrow)])


def make_reference(
    workload: Graph,
    seed: int,
    folder: Path,
    to_onnx: Callable[[Graph, Mapping[str, np.ndarray]], Any],
    threads: int = 1,
    precision: str = FP32,
    narrow: Collection[str] = (),
) -> Reference:
    """Draw inputs and weights, compute the outputs, leave all in ``folder`` (which must not exist yet).

    Args:
        workload: a canonical graph; constants without a value are weights, drawn from N(0, 1/fan_in).
        to_onnx: (graph, arrays of its constants) -> onnx.ModelProto.
        threads: for ONNX Runtime.
        precision: of the kernels that are held against it. "bf16": weights that such kernels store so are rounded;
            "bf16-dot": so is what they are multiplied with. "int8": both become what their integers stand for, on the
            grid of the range that inputs were drawn with, which is kept as a constant.
        narrow: inputs that such kernels get as bfloat16; they are rounded.

    Raises:
        CandidateError(code="no-reference"): ONNX Runtime cannot run the workload.
    """
    names = [*workload.inputs, *workload.constants]
    types = [workload.type_of(n) for n in names]
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        quantised = quantised_layers(workload) if precision == INT8 else []
        ranges = {layer.inputs[0]: derived(layer.inputs[0], RANGE) for layer in quantised}
        more = [(name, (2,), "float32") for name in ranges.values()]
        index = _layout([*((t.name, t.shape, t.dtype) for t in types), *more])
        arrays = _map(building / "given.bin", index, "w+")
        rng = np.random.default_rng(seed)
        block = rng.standard_normal(_BLOCK, np.float32)
        for tensor in types:
            _draw(workload, tensor, arrays[tensor.name], rng, block)
        if precision in (BF16, BF16_DOT):
            for name in weight_names(workload):
                arrays[name][...] = rounded(arrays[name])
        for name in narrow:
            arrays[name][...] = rounded(arrays[name])
        for name, place in ranges.items():
            arrays[place][...] = arrays[name].min(), arrays[name].max()
        grids = {name: grid(arrays[place]).tolist() for name, place in ranges.items()}
        given = dict(arrays)
        for layer in quantised:  # kernels make integers of the weights as drawn
            given[layer.inputs[1]] = int8.quantised(arrays[layer.inputs[1]])
        rounding = dotted_layers(workload) if precision == BF16_DOT else quantised
        operands = {layer.outputs[0]: (0,) for layer in rounding}

        def model(*of: Any) -> Any:
            return rounding_operands(to_onnx(*of), operands, grids=grids)

        outputs = _run(workload, given, model, threads)
        out_index = _layout([(n, a.shape, a.dtype.name) for n, a in outputs.items()])
        for name, array in _map(building / "outputs.bin", out_index, "w+").items():
            array[...] = outputs[name]
        text = json.dumps({"inputs": list(workload.inputs), "given": index, "outputs": out_index})
        (building / "index.json").write_text(text)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return load_reference(folder)


def load_reference(folder: Path) -> Reference:
    """Map a stored reference into memory (read-only). Raises FileNotFoundError when there is none."""
    index = json.loads((folder / "index.json").read_text())
    given = _map(folder / "given.bin", index["given"], "r")
    return Reference(
        folder,
        {n: given[n] for n in index["inputs"]},
        {n: a for n, a in given.items() if n not in index["inputs"]},
        _map(folder / "outputs.bin", index["outputs"], "r"),
    )


def evict(root: Path, limit: int, keep: Collection[str]) -> list[str]:
    """Delete the references used longest ago until all fit into ``limit`` bytes; returns the names of the deleted."""
    found = sorted((p for p in root.iterdir() if not p.name.startswith(".")), key=lambda p: p.stat().st_mtime)
    sizes = {p: sum(f.stat().st_size for f in p.iterdir()) for p in found}
    excess, gone = sum(sizes.values()) - limit, []
    for path in found:
        if excess > 0 and path.name not in keep:
            shutil.rmtree(path)
            excess -= sizes[path]
            gone.append(path.name)
    return gone


def handler(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Serve the reference child: ``{"workload", "precision", "narrow", "name", "keep"}`` -> ``{"evicted"}``.

    The reference is made unless it is there.
    """
    from tuner.measure.building import resolve

    options = MeasureOptions.from_json(config["options"])
    root = Path(config["references"])
    root.mkdir(parents=True, exist_ok=True)
    threads = int(config["device"]["cores"])

    def handle(request: Mapping[str, Any]) -> dict[str, Any]:
        folder = root / request["name"]
        if (folder / "index.json").exists():
            os.utime(folder)
        else:
            to_onnx = resolve(options.onnx_function)
            workload, precision = Graph.from_json(request["workload"]), request["precision"]
            make_reference(workload, options.seed, folder, to_onnx, threads, precision, request["narrow"])
        return {"evicted": evict(root, options.reference_bytes, {request["name"], *request["keep"]})}

    return handle


def _layout(arrays: list[tuple[str, tuple[int, ...], str]]) -> dict[str, Any]:
    """Name -> [offset, shape, dtype] in one flat file, every array on a cache line."""
    index, offset = {}, 0
    for name, shape, dtype in arrays:
        index[name] = [offset, list(shape), dtype]
        offset += -(-prod(shape) * np.dtype(dtype).itemsize // _ALIGN) * _ALIGN
    return index


def _map(path: Path, index: Mapping[str, Any], mode: Any) -> dict[str, np.ndarray]:
    size = max([at + prod(shape) * np.dtype(dtype).itemsize for at, shape, dtype in index.values()], default=0)
    flat = np.memmap(path, np.uint8, mode, shape=(max(size, 1),))
    raw = np.asarray(flat)
    return {
        n: raw[at : at + prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
        for n, (at, shape, dtype) in index.items()
    }


def _draw(
    workload: Graph, tensor: Tensor | Constant, out: np.ndarray, rng: np.random.Generator, block: np.ndarray
) -> None:
    """Fill ``out`` with what this input or constant is to hold."""
    if isinstance(tensor, Constant) and tensor.value is not None:
        out[...] = np.array(tensor.value, out.dtype).reshape(out.shape)
        return
    if out.dtype.kind != "f":
        out[...] = rng.integers(0, 2, out.shape)  # indices and masks: small, so that they are in range anywhere
        return
    scale = 1.0 if isinstance(tensor, Tensor) else 1 / sqrt(_fan_in(workload, tensor))
    flat = out.reshape(-1)
    random = block * np.float32(scale) if scale != 1.0 else block
    start = int(rng.integers(_BLOCK))  # so that two weights are not the same numbers
    at = min(len(flat), _BLOCK - start)
    flat[:at] = random[start : start + at]
    while at < len(flat):
        some = min(_BLOCK, len(flat) - at)
        flat[at : at + some] = random[:some]
        at += some
    for layer in workload.layers:
        for place, name in enumerate(layer.inputs):
            norm = layer.op == "BatchNormalization" and place in (_NORM_SCALE, _NORM_VARIANCE)
            if name == tensor.name and (norm or _POSITIVE.get(layer.op) == place):
                np.abs(out, out=out)
                out += 0.5


def _fan_in(workload: Graph, constant: Constant) -> int:
    """How many products are summed for one output through this weight; 1 for biases and scales."""
    for layer in workload.layers:
        if constant.name not in layer.inputs or len(constant.shape) < 2:
            continue
        if layer.op in ("Conv", "ConvInteger"):
            return prod(constant.shape[1:])
        if layer.op == "ConvTranspose":
            return constant.shape[0] * prod(constant.shape[2:])
        if layer.op == "Gemm" and constant.name == layer.inputs[1]:
            return constant.shape[1 if layer.attr("transB", 0) else 0]
        if layer.op == "MatMul":
            return constant.shape[-2 if constant.name == layer.inputs[1] else -1]
    return 1


def _run(
    workload: Graph, arrays: Mapping[str, np.ndarray], to_onnx: Callable[..., Any], threads: int
) -> dict[str, np.ndarray]:
    """ONNX Runtime's outputs. Large weights become inputs, so that no second copy of them is made."""
    import onnxruntime

    fed = [n for n, c in workload.constants.items() if c.value is None and c.bytes >= _FED]
    kinds = {n: Tensor(n, workload.constants[n].shape, workload.constants[n].dtype) for n in fed}
    graph = replace(
        workload,
        inputs=(*workload.inputs, *fed),
        tensors={**workload.tensors, **kinds},
        constants={n: c for n, c in workload.constants.items() if n not in kinds},
    )
    try:
        model = to_onnx(graph, {n: arrays[n] for n in graph.constants})
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others are building meanwhile
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        found = session.run(list(workload.outputs), {n: arrays[n] for n in graph.inputs})
    except Exception as error:
        text = " ".join(str(error).split())
        raise CandidateError(
            f"ONNX Runtime gives no reference for this workload: {text}", code="no-reference"
        ) from error
    return {n: np.asarray(a) for n, a in zip(workload.outputs, found, strict=True)}
