"""PyTorch as a contender: eager, channels last (cuDNN's layout for tensor cores), and torch.compile's max-autotune."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu.kit import images
from bench.peers.torch_model import to_torch
from tuner.graph.load import import_model


class OnTorch:
    """The model's Graph as PyTorch code on the first GPU."""

    def __init__(self, path: Path, precision: str, how: str) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no GPU here")
        warnings.simplefilter("ignore")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        imported = import_model(path)
        model = to_torch(imported.graph, imported.weights).cuda()
        arrays = images(
            {n: (imported.graph.type_of(n).shape, imported.graph.type_of(n).dtype) for n in imported.graph.inputs}
        )
        inputs = [torch.from_numpy(array).cuda() for array in arrays.values()]
        if precision == "fp16":
            model, inputs = model.half(), [x.half() if x.is_floating_point() else x for x in inputs]
        if how != "torch":
            model = model.to(memory_format=torch.channels_last)
            inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
        self._call = torch.compile(model, mode="max-autotune") if how == "torch-compile" else model
        self._inputs, self._result = inputs, None
        self._names = imported.graph.outputs
        self.note: Mapping[str, Any] = {
            "how": {"torch": "eager", "torch-channels-last": "eager, channels last, cuDNN's benchmark mode",
                    "torch-compile": "max-autotune, channels last"}[how],
            "version": torch.__version__, "cudnn": torch.backends.cudnn.version(),
        }  # fmt: skip

    def run(self) -> None:
        with torch.inference_mode():
            self._result = self._call(*self._inputs)
        torch.cuda.synchronize()

    def outputs(self) -> dict[str, np.ndarray]:
        assert self._result is not None
        return {
            name: tensor.float().cpu().numpy() for name, tensor in zip(self._names, self._result, strict=True)
        }  # fmt: skip


def open_torch(config: Mapping[str, Any]) -> OnTorch:
    """A child's model."""
    return OnTorch(Path(config["model"]), config["precision"], config["contender"])
