"""Between which numbers the images that convolutions read lie, by running the model once in float32 (calibration)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.graph.ir import Graph
from tuner.measure.contest import Contestant, run_once
from tuner.measure.contestants import Engine
from tuner.plan.int8 import quantised_layers
from tuner.plan.layout import RANGE, derived

_ENDS = {"ReduceMin": "low", "ReduceMax": "high"}

Arrays = Mapping[str, np.ndarray]


class RangedModel(Engine):
    """ONNX Runtime on a model whose outputs are, instead, the lowest and the highest number of some of its tensors.

    ``options["tensors"]`` names them. Outputs are by tensor, ``[2]`` float32.
    """

    def load(self, inputs: Arrays) -> None:
        import onnx
        from onnx import helper

        model = onnx.load(str(self.path))
        del model.graph.output[:]
        for number, name in enumerate(self.options["tensors"]):
            for op, end in _ENDS.items():
                made = f"fusetune.{end}.{number}"
                model.graph.node.append(helper.make_node(op, [name], [made], keepdims=0))
                model.graph.output.append(helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, []))
        self._session = session_of(model, self.threads)

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        return lambda: self._session.run(None, dict(inputs))

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        ends = np.asarray(result, np.float32).reshape(-1, 2)
        return dict(zip(self.options["tensors"], ends, strict=True))


def session_of(model: Any, threads: int) -> Any:
    """ONNX Runtime's session of an onnx.ModelProto."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def image_ranges(
    graph: Graph, weights: Arrays, inputs: Sequence[Arrays], threads: int, folder: Path
) -> dict[str, np.ndarray]:  # fmt: skip
    """Ranges of all images that convolutions in int8 may read, as ``derived(tensor, RANGE)`` -> float32 (low, high).

    Over all sets of inputs.

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
    ends = {n: np.asarray([each[n] for each in found]) for n in tensors}
    return {derived(n, RANGE): np.asarray([e[:, 0].min(), e[:, 1].max()], np.float32) for n, e in ends.items()}
