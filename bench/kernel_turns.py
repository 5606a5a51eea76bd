"""Contestants of ``bench.kernels``, called one after the other; the fastest call of each counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.build.binary import KernelBinary
from tuner.graph.ir import Graph
from tuner.plan.bf16 import stored

Call = Callable[[], None]


@dataclass(frozen=True)
class Contestant:
    """A built kernel; or, with ``kernel`` None, ONNX Runtime on ``workload``."""

    name: str
    kernel: KernelBinary | None
    workload: Graph | None = None


def take_turns(fields: Sequence[Sequence[Contestant]], rounds: int, cores: int) -> list[dict[str, float]]:
    """Seconds of the fastest call by contestant's name, per field; each input is written just before it is read."""
    ready: list[dict[str, tuple[Call, Call]]] = [{c.name: _prepared(c, cores) for c in field} for field in fields]
    best: list[dict[str, float]] = [dict.fromkeys(field, float("inf")) for field in ready]
    for turn in range(rounds + 1):  # the first warms up
        for field, found in zip(ready, best, strict=True):
            names = list(field) if turn % 2 else list(reversed(field))
            for name in names:
                refresh, call = field[name]
                refresh()
                began = time.perf_counter()
                call()
                seconds = time.perf_counter() - began
                if turn:
                    found[name] = min(found[name], seconds)
    return best


def _prepared(contestant: Contestant, cores: int) -> tuple[Call, Call]:
    """(write the inputs, call)."""
    if contestant.kernel is not None:
        return _ours(contestant.kernel)
    assert contestant.workload is not None
    return _theirs(contestant.workload, cores)


def _array(shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    numbers = np.random.default_rng(seed).standard_normal(tuple(shape))
    return stored(numbers) if dtype == "uint16" else numbers.astype(dtype)  # weights in bfloat16


def _ours(kernel: KernelBinary) -> tuple[Call, Call]:
    import tvm

    function = tvm.runtime.load_module(kernel.library)[kernel.symbol]
    arrays = [_array(a.shape, a.dtype, i) for i, a in enumerate(kernel.args)]
    held = [tvm.runtime.tensor(array) for array in arrays]
    fresh = [(t, a) for t, a, arg in zip(held, arrays, kernel.args, strict=True) if arg.role == "input"]

    def refresh() -> None:
        for tensor, array in fresh:
            tensor.copyfrom(array)

    return refresh, lambda: function(*held)


def _theirs(workload: Graph, cores: int) -> tuple[Call, Call]:
    import onnxruntime

    from tuner.graph.onnx_io import to_onnx

    weights = {n: _array(c.shape, c.dtype, i) for i, (n, c) in enumerate(workload.constants.items()) if c.value is None}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would spin through our turns
    model = to_onnx(workload, weights).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding: Any = session.io_binding()
    arrays = {n: _array(workload.tensors[n].shape, workload.tensors[n].dtype, 0) for n in workload.inputs}
    values: Mapping[str, Any] = {n: onnxruntime.OrtValue.ortvalue_from_numpy(a) for n, a in arrays.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name in workload.outputs:
        empty = np.empty(workload.tensors[name].shape, workload.tensors[name].dtype)
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(empty))

    def refresh() -> None:
        for name, value in values.items():
            value.update_inplace(arrays[name])

    return refresh, lambda: session.run_with_iobinding(binding)
