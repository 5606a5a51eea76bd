"""Contestants that only the benches have: PyTorch on an ONNX file, and TVM with MetaSchedule's records."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tuner.errors import CandidateError
from tuner.measure.contestants import Arrays, Engine


class TorchModel(Engine):
    """PyTorch on the CPU; ``options["compile"]`` asks for torch.compile, weights frozen into what it compiles."""

    def __init__(self, path: Path, options: Mapping[str, Any], threads: int) -> None:
        super().__init__(path, options, threads)
        if find_spec("torch") is None:
            raise CandidateError("torch is not installed: pip install 'fusetune[torch]'", code="missing-package")
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # it would keep a pool of processes
        import torch

        torch.set_num_threads(threads)

    def load(self, inputs: Arrays) -> None:
        import torch

        from bench.peers.torch_model import to_torch
        from tuner.graph.load import import_model
        from tuner.graph.passes.registry import SLICING

        model = import_model(self.path, shapes={n: a.shape for n, a in inputs.items()}, disabled=SLICING)
        self._graph = model.graph
        self._module: Any = to_torch(model.graph, model.weights)
        if self.options.get("compile"):
            self._module = torch.compile(self._module, options={"freezing": True})

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        import torch

        module, args = self._module, [torch.from_numpy(np.array(inputs[n])) for n in self._graph.inputs]

        def call() -> Any:
            with torch.inference_mode():
                return module(*args)

        return call

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in zip(self._graph.outputs, result, strict=True)}


class MetaScheduled(Engine):
    """TVM with the best records that MetaSchedule left in the folder ``options["records"]``."""

    def __init__(self, path: Path, options: Mapping[str, Any], threads: int) -> None:
        super().__init__(path, options, threads)
        import tvm

        self._tvm = tvm

    def load(self, inputs: Arrays) -> None:
        from bench.peers.metaschedule import compiled, prepared

        model = prepared(self.path, self.threads)
        self._inputs, self._outputs = model.inputs, model.outputs
        self._machine, self._params = compiled(model, Path(self.options["records"]))

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        main = self._machine["main"]
        args = [self._tvm.runtime.tensor(np.asarray(inputs[name], order="C")) for name in self._inputs]
        return lambda: main(*args, *self._params)

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        values = [result] if hasattr(result, "numpy") else list(result)
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}
