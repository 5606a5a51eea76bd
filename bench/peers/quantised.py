"""A model as ONNX Runtime's own tools quantise it: what a user gets in int8 for free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.graph.load import import_model
from tuner.graph.onnx_io import save_onnx
from tuner.graph.passes.registry import SLICING

Arrays = Mapping[str, np.ndarray]


def quantise(model: Path, out: Path, inputs: Sequence[Arrays]) -> Path:
    """Write ``model`` statically quantised to ``out``, with the usual choices for x86 with VNNI; gives ``out``.

    Of the graph as our cleaning passes leave it: the tools want a newer opset than some models have.

    Nodes in QDQ form, activations uint8, weights int8 per channel, all operators that the tools know but Softmax (its
    results would lie on a grid of 255 steps), ranges from lowest to highest over ``inputs``, batch normalisations
    folded before.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Given(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(inputs)

        def get_next(self) -> Any:
            return next(self._left, None)

    clean, prepared = out.with_suffix(".clean.onnx"), out.with_suffix(".prepared.onnx")
    found = import_model(model, disabled=SLICING)
    save_onnx(found.graph, found.weights, clean)
    quant_pre_process(str(clean), str(prepared), skip_symbolic_shape=True)
    exact = [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type == "Softmax"]
    quantize_static(
        str(prepared), str(out), Given(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=exact,
    )  # fmt: skip
    clean.unlink()
    prepared.unlink()
    return out
