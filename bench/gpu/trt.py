"""TensorRT as a contender, where its wheel is: the ONNX file parsed, an engine built, run on PyTorch's memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt
import torch

from bench.gpu.kit import images

_BUILDING = 4 << 30  # B of workspace


class OnTensorRt:
    """An engine with its tensors."""

    def __init__(self, path: Path, precision: str) -> None:
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse(path.read_bytes()):
            raise RuntimeError(f"TensorRT does not read the model: {parser.get_error(0)}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, _BUILDING)
        if precision == "fp16":
            config.set_flag(tensorrt.BuilderFlag.FP16)
        if precision == "fp32":
            config.clear_flag(tensorrt.BuilderFlag.TF32)
        engine = tensorrt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
        if engine is None:
            raise RuntimeError("TensorRT built no engine")
        self._engine, self._context = engine, engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        self._tensors: dict[str, Any] = {}
        names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        given = [n for n in names if engine.get_tensor_mode(n) == tensorrt.TensorIOMode.INPUT]
        arrays = images({n: (tuple(engine.get_tensor_shape(n)), _dtype(engine, n)) for n in given})
        for name in names:
            shape = tuple(engine.get_tensor_shape(name))
            self._tensors[name] = torch.from_numpy(arrays[name]).cuda() if name in arrays else torch.empty(
                shape, dtype=torch.float32, device="cuda")  # fmt: skip
            self._context.set_tensor_address(name, self._tensors[name].data_ptr())
        self._outputs = [name for name in names if name not in arrays]
        self.note: Mapping[str, Any] = {"how": "engine", "version": tensorrt.__version__}

    def run(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("TensorRT could not run its engine")
        self._stream.synchronize()

    def outputs(self) -> dict[str, np.ndarray]:
        return {name: self._tensors[name].cpu().numpy() for name in self._outputs}


def _dtype(engine: Any, name: str) -> str:
    return str(np.dtype(tensorrt.nptype(engine.get_tensor_dtype(name))))


def open_tensorrt(config: Mapping[str, Any]) -> OnTensorRt:
    """A child's model."""
    return OnTensorRt(Path(config["model"]), config["precision"])
