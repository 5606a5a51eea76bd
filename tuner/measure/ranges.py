"""Between which numbers the images that convolutions read lie, by running the model once in float32 (calibration)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.graph.ir import Graph
from tuner.measure.contest import Contestant, run_once
from tuner.measure.contestants import Engine
from tuner.plan.int8 import grid, on_grid, quantised_layers
from tuner.plan.layout import RANGE, derived

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of a range, to which outliers may be cut

Arrays = Mapping[str, np.ndarray]


class RangedModel(Engine):
    """ONNX Runtime on a model whose outputs are, instead, the best range (low, high) of each of some tensors.

    ``options["tensors"]`` names them. Of the ranges that are a tensor's own or a share of it, the best is that on whose
    grid of 255 steps the tensor has the least mean squared error.
    """

    def load(self, inputs: Arrays) -> None:
        import onnx

        model = onnx.load(str(self.path))
        kind = onnx.TensorProto.FLOAT
        del model.graph.output[:]
        for name in self.options["tensors"]:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
        self._session = session_of(model, self.threads)

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        return lambda: self._session.run(None, dict(inputs))

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        tensors = zip(self._session.get_outputs(), result, strict=True)
        return {output.name: best_range(array) for output, array in tensors}


def session_of(model: Any, threads: int) -> Any:
    """ONNX Runtime's session of an onnx.ModelProto."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def best_range(array: np.ndarray) -> np.ndarray:
    """``(low, high)`` float32 of the grid in int8 on which the array's mean squared error is least."""
    own = np.asarray([min(0.0, float(array.min())), max(0.0, float(array.max()))], np.float32)
    if not np.isfinite(own).all():
        return own

    def error(limits: np.ndarray) -> float:
        off = (on_grid(array, grid(limits)) - array).reshape(-1)
        return float(off @ off)

    return min((own * np.float32(share) for share in SHARES), key=error)


def image_ranges(
    graph: Graph, weights: Arrays, inputs: Sequence[Arrays], threads: int, folder: Path
) -> dict[str, np.ndarray]:  # fmt: skip
    """Ranges of all images that convolutions in int8 may read, as ``derived(tensor, RANGE)`` -> float32 (low, high).

    Of several sets of inputs the widest counts.

    Args:
        graph, weights: the cleaned model.
        folder: for the model as a file.

    Raises CandidateError (``contestant-failed``) when ONNX Runtime cannot run the model.
    """
    from tuner.graph.onnx_io import save_onnx

    tensors = list(dict.fromkeys(layer.inputs[0] for layer in quantised_layers(graph)))
    if not tensors:
        return {}
    path = folder / "ranges.onnx"
    save_onnx(graph, weights, path)
    try:
        kind = f"{RangedModel.__module__}:{RangedModel.__name__}"
        found = run_once(Contestant("ONNX Runtime with ranges", kind, path, {"tensors": tensors}), inputs, threads)
    finally:
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
    lows, highs = ({n: pick(each[n][k] for each in found) for n in tensors} for k, pick in ((0, min), (1, max)))
    return {derived(n, RANGE): np.asarray([lows[n], highs[n]], np.float32) for n in tensors}
