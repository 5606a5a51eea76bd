"""The graph that PyTorch is given computes what ONNX Runtime computes, operator by operator of the bench's models."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bench.peers.sidebyside import random_inputs
from bench.peers.torch_model import to_torch
from bench.peers.transformers import bert_mini
from tuner.errors import CandidateError
from tuner.graph.load import import_model

RANDOM = np.random.default_rng(3)


def model(
    *nodes: object, shape: tuple[int, ...] = (1, 4, 9, 9), kind: int = TensorProto.FLOAT, **constants: object
) -> ModelProto:
    """Nodes from x to y; constants by name."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", kind, shape)], [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rand(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def node(op: str, *inputs: str, **attributes: object) -> object:
    return helper.make_node(op, inputs or ["x"], ["y"], **attributes)


MODELS = {
    "conv, uneven pads": model(node("Conv", "x", "w", "b", pads=[0, 1, 2, 3], strides=[2, 1]), w=rand(6, 4, 3, 3),
                               b=rand(6)),
    "conv, grouped and even pads of two sizes": model(node("Conv", "x", "w", pads=[1, 2, 1, 2], group=2),
                                                      w=rand(6, 2, 3, 3)),
    "maximum, uneven pads": model(node("MaxPool", kernel_shape=[3, 3], pads=[0, 0, 1, 1], strides=[2, 2])),
    "average, uneven pads": model(node("AveragePool", kernel_shape=[3, 2], pads=[0, 0, 1, 1], strides=[2, 2])),
    "average, pads counted": model(node("AveragePool", kernel_shape=[3, 3], pads=[1, 0, 0, 1], count_include_pad=1)),
    "average, even pads": model(node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
    "gemm": model(node("Gemm", "x", "w", "b", transA=1, alpha=0.5, beta=2.0), shape=(5, 3), w=rand(5, 7), b=rand(7)),
    "gemm as linear": model(node("Gemm", "x", "w", "b", transB=1), shape=(3, 5), w=rand(7, 5), b=rand(7)),
    "lrn": model(node("LRN", size=3, alpha=0.5, beta=0.6, bias=2.0)),
    "clip": model(node("Clip", "x", "", "high"), high=np.float32(0.5)),
    "words": model(node("Gather", "w", "x", axis=0), shape=(1, 6), kind=TensorProto.INT64, w=rand(9, 4)),
    "one of an axis": model(node("Gather", "x", "i", axis=2), i=np.int64(4)),
    "layer norm without a shift": model(node("LayerNormalization", "x", "s", axis=-1), s=rand(9)),
}  # fmt: skip


@pytest.mark.parametrize("proto", [*MODELS.values(), bert_mini()], ids=[*MODELS, "bert_mini"])
def test_it_computes_what_onnxruntime_computes(proto: ModelProto) -> None:
    imported = import_model(proto.SerializeToString())
    feeds = random_inputs(imported.graph, 4)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, dict(feeds))
    (found,) = to_torch(imported.graph, imported.weights)(*(torch.from_numpy(a) for a in feeds.values()))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=2e-5)


def test_what_it_does_not_know_is_refused_by_name() -> None:
    imported = import_model(model(node("Elu")).SerializeToString())
    with pytest.raises(CandidateError, match="Elu"):
        to_torch(imported.graph, imported.weights)
