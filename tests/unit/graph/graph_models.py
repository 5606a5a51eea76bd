"""Small ONNX models, and ways to clean and run them, for the tests of this folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tuner.graph.clean import clean
from tuner.graph.export import digests_of, to_graph
from tuner.graph.ir import Graph
from tuner.graph.onnx_io import to_onnx
from tuner.graph.passes.registry import NAMES
from tuner.graph.work import Sizes

SIZES = Sizes(tensor=1 << 26, constants=1 << 27)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str] | str, **attrs: Any) -> NodeProto:
    return helper.make_node(op, inputs, [outputs] if isinstance(outputs, str) else outputs, **attrs)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    dtype: int = onnx.TensorProto.FLOAT,
) -> ModelProto:
    """A model with inputs of one dtype; outputs are declared without shapes; lists become float32 or int64 arrays."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, dtype, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, None) for n in outputs],
        [numpy_helper.from_array(array(v), n) for n, v in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    if any(n.domain == "com.microsoft" for n in nodes):
        opsets.append(helper.make_opsetid("com.microsoft", 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def array(value: Any) -> np.ndarray:
    found = np.asarray(value)
    return found.astype(np.float32) if found.dtype == np.float64 else found


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def run(proto: ModelProto, feeds: Mapping[str, np.ndarray] | None = None) -> list[np.ndarray]:
    """Outputs in ONNX Runtime, without its optimisations; inputs are random when not given."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if feeds is None:
        feeds = {i.name: rand(*i.shape, seed=k) for k, i in enumerate(session.get_inputs())}
    return [np.asarray(y) for y in session.run(None, dict(feeds))]


def cleaned(
    proto: ModelProto, disabled: Collection[str] = (), shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[Graph, dict[str, np.ndarray]]:
    """Graph and weights, without a child process."""
    work = clean(proto.SerializeToString(), None, shapes or {}, disabled, SIZES).work
    graph = to_graph(work, digests_of(work))
    return graph, {name: work.arrays[name] for name in graph.constants}


def ops(graph: Graph) -> dict[str, int]:
    return dict(Counter(layer.op for layer in graph.layers))


def only(*enabled: str) -> list[str]:
    """The ``disabled`` that leaves just these passes."""
    assert set(enabled) <= set(NAMES)
    return [name for name in NAMES if name not in enabled]


def check(proto: ModelProto, *enabled: str, rtol: float = 1e-5, all_passes: bool = False) -> Graph:
    """Clean with just these passes (or all), check that results stay, and return the Graph."""
    graph, weights = cleaned(proto, () if all_passes else only(*enabled))
    result = to_onnx(graph, weights)
    onnx.checker.check_model(result, full_check=True)
    for ours, theirs in zip(run(result), run(proto), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * max(1e-6, float(np.abs(theirs).max(initial=0))))
    return graph
