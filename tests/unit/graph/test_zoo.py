"""The zoo: what comes out of cleaning, results, costs, and that its activations are alive."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_models import ops, rand, run
from onnx import helper, numpy_helper
from test_import import check_invariants

from tuner.errors import UserError
from tuner.graph import zoo
from tuner.graph.costs import layer_cost, total_macs
from tuner.graph.load import ImportedModel, import_model
from tuner.graph.onnx_io import to_onnx
from tuner.graph.passes.registry import NAMES

SMALL = ("squeezenet", "shufflenet", "inception_v1", "inception_v2", "densenet121", "resnet50")
WRITTEN = ("resnet18", "mobilenetv2", "efficientnet_b0")  # by ourselves
LARGE = ("bvlc_alexnet", "zfnet512", "vgg19", "densenet264")
ALL = [*SMALL, *WRITTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
IMAGE = rand(1, 3, 224, 224, seed=5)

LAYERS = {
    "squeezenet": {"Conv": 26, "Relu": 26, "MaxPool": 3, "Concat": 8, "GlobalAveragePool": 1, "Softmax": 1},
    "shufflenet": {
        "Conv": 49, "Relu": 33, "MaxPool": 1, "Reshape": 33, "Transpose": 16, "AveragePool": 4, "Concat": 3, "Add": 13,
        "Gemm": 1, "Softmax": 1,
    },
    "inception_v1": {
        "Conv": 43, "Relu": 43, "Slice": 21, "MaxPool": 13, "LRN": 2, "Concat": 9, "AveragePool": 1, "Reshape": 1,
        "Gemm": 1, "Softmax": 1,
    },
    "inception_v2": {
        "Conv": 56, "Relu": 56, "Slice": 20, "MaxPool": 5, "AveragePool": 8, "Concat": 10, "Reshape": 1,
        "Gemm": 1, "Softmax": 1,
    },
    "densenet121": {
        "Conv": 121, "Relu": 121, "MaxPool": 1, "Mul": 62, "Add": 62, "Concat": 58, "AveragePool": 3,
        "GlobalAveragePool": 1,
    },
    "resnet50": {
        "Conv": 53, "Relu": 49, "MaxPool": 1, "Add": 16, "AveragePool": 1, "Reshape": 1, "Gemm": 1, "Softmax": 1,
    },
    "resnet18": {
        "Conv": 20, "Relu": 17, "MaxPool": 1, "Add": 8, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1,
    },
    "mobilenetv2": {
        "Conv": 52, "Clip": 35, "Add": 10, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1,
    },
    "efficientnet_b0": {
        "Conv": 81, "Sigmoid": 65, "Mul": 65, "Add": 9, "GlobalAveragePool": 17, "Flatten": 1, "Gemm": 1, "Softmax": 1,
    },
    "densenet264": {
        "Conv": 264, "Relu": 265, "MaxPool": 1, "Mul": 134, "Add": 134, "Concat": 130, "AveragePool": 3,
        "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1,
    },
    "bvlc_alexnet": {"Conv": 5, "Relu": 7, "LRN": 2, "MaxPool": 3, "Reshape": 1, "Gemm": 3, "Softmax": 1},
    "zfnet512": {"Conv": 5, "Relu": 7, "LRN": 2, "MaxPool": 3, "Reshape": 1, "Gemm": 3, "Softmax": 1},
    "vgg19": {"Conv": 16, "Relu": 18, "MaxPool": 5, "Reshape": 1, "Gemm": 3, "Softmax": 1},
}  # fmt: skip
GMACS = {
    "squeezenet": (0.34, 0.36), "shufflenet": (0.12, 0.15), "inception_v1": (1.4, 1.6), "inception_v2": (1.9, 2.1),
    "densenet121": (2.8, 2.9), "resnet50": (4.0, 4.15),
    "resnet18": (1.81, 1.82), "mobilenetv2": (0.3, 0.305), "efficientnet_b0": (0.38, 0.4),
    "densenet264": (5.7, 5.9),
    "bvlc_alexnet": (0.6, 0.75), "zfnet512": (1.4, 1.6), "vgg19": (19.4, 19.8),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="fusetune-zoo-") as name:  # not tmp_path: pytest would keep up to 1.2 GB of it
        yield Path(name)


@cache
def _written(name: str, folder: Path) -> Path:
    return zoo.write(name, folder / f"{name}.onnx")


@cache
def _imported(name: str, folder: Path) -> ImportedModel:
    return import_model(_written(name, folder))


@pytest.mark.parametrize("name", ALL)
def test_cleaned_layers_results_and_macs(name: str, folder: Path) -> None:
    found = _imported(name, folder)
    check_invariants(found.graph)
    assert ops(found.graph) == LAYERS[name]
    assert found.name == name
    low, high = GMACS[name]
    assert low <= total_macs(found.graph) / 1e9 <= high
    assert len(found.graph.inputs) == 1
    feeds = {found.graph.inputs[0]: IMAGE}
    (ours,) = run(to_onnx(found.graph, found.weights), feeds)
    (theirs,) = run(onnx.load_model(str(_written(name, folder))), feeds)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["inception_v2", "shufflenet"])
def test_all_passes_off(name: str, folder: Path) -> None:
    path = _written(name, folder)
    found = import_model(path, disabled=NAMES)
    check_invariants(found.graph)
    proto = onnx.load_model(str(path))
    assert len(found.graph.layers) == len(proto.graph.node)
    assert not any(report.enabled for report in found.passes)
    feeds = {found.graph.inputs[0]: IMAGE}
    np.testing.assert_allclose(run(to_onnx(found.graph, found.weights), feeds)[0], run(proto, feeds)[0], rtol=1e-4)


def test_topology_without_weights_can_be_imported() -> None:
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_squeezenet.onnx"
    assert ops(import_model(path).graph) == LAYERS["squeezenet"]
    assert ops(import_model(path, disabled=NAMES).graph)["ConstantOfShape"] == 39


@pytest.mark.parametrize("name", ALL)
def test_activations_stay_alive(name: str, folder: Path) -> None:
    proto = onnx.load_model(str(_written(name, folder)))
    softmax = [node.input[0] for node in proto.graph.node if node.op_type == "Softmax"]
    read = {n for node in proto.graph.node for n in node.input} | {proto.graph.output[0].name}
    given = {t.name for t in proto.graph.initializer}
    names = []
    for node in proto.graph.node:
        if node.output[0] in read and not set(node.input) <= given:
            names.append(node.output[0])
    final = proto.graph.output[0].name
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    values = dict(zip(names, run(proto, {proto.graph.input[0].name: IMAGE}), strict=True))
    logits = values[softmax[0] if softmax else final]
    assert 1 <= logits.std() <= 3
    if softmax:
        assert values.pop(final).max() < 0.9
    for tensor, value in values.items():
        assert 0.05 < value.std() < 20, tensor


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "densenet121", "resnet50", *WRITTEN])
def test_every_convolution_matters(name: str, folder: Path) -> None:
    """Perturbing one layer's weights by 10% moves the logits by far more than rounding does."""
    proto = onnx.load_model(str(_written(name, folder)))
    softmax = [node.input[0] for node in proto.graph.node if node.op_type == "Softmax"]
    if softmax:
        del proto.graph.output[:]
        proto.graph.output.append(helper.make_empty_tensor_value_info(softmax[0]))
    feeds = {proto.graph.input[0].name: IMAGE}
    (before,) = _fast(proto, feeds)
    (other,) = _fast(proto, {proto.graph.input[0].name: rand(1, 3, 224, 224, seed=6)})
    assert np.abs(other - before).std() > 0.02 * before.std()  # images differ
    tensors = {t.name: t for t in proto.graph.initializer}
    convs = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    for conv in convs[:: max(1, len(convs) // 4)]:
        tensor = tensors[conv.input[1]]
        saved = tensor.raw_data
        weights = numpy_helper.to_array(tensor)
        tensor.raw_data = (weights * (1 + 0.1 * rand(*weights.shape, seed=1))).tobytes()
        (after,) = _fast(proto, feeds)
        tensor.raw_data = saved
        assert np.abs(after - before).max() > 1e-3 * np.abs(before).max(), conv.input[1]


def _fast(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, feeds)]


def test_same_seed_same_bytes(folder: Path) -> None:
    first = _written("squeezenet", folder).read_bytes()
    assert zoo.write("squeezenet", folder / "again.onnx").read_bytes() == first
    assert zoo.write("squeezenet", folder / "other.onnx", seed=1).read_bytes() != first


def test_only_the_image_remains_an_input(folder: Path) -> None:
    proto = onnx.load_model(str(_written("resnet50", folder)))
    onnx.checker.check_model(proto)
    assert [i.name for i in proto.graph.input] == ["gpu_0/data_0"]
    assert not any(node.op_type == "ConstantOfShape" for node in proto.graph.node)


def test_names_and_descriptions() -> None:
    assert len(zoo.names()) == 13
    assert all(zoo.describe(name) for name in zoo.names())
    for call in (lambda: zoo.describe("lenet"), lambda: zoo.write("lenet", Path("x.onnx"))):
        with pytest.raises(UserError, match="'lenet'") as caught:
            call()
        assert "resnet50" in caught.value.hint


def test_layer_costs_of_resnet50(folder: Path) -> None:
    graph = _imported("resnet50", folder).graph
    first = layer_cost(graph, graph.layers[0])
    assert first.macs == 112 * 112 * 64 * 7 * 7 * 3
    assert first.ops == 2 * first.macs
    assert first.channels == 64
    assert first.bytes_written == 112 * 112 * 64 * 4
    assert first.bytes_read == 4 * (3 * 224 * 224 + 64 * 3 * 49 + 64)
    relu = layer_cost(graph, graph.by_id["Relu_1"])
    assert (relu.macs, relu.ops) == (0, 112 * 112 * 64)
    assert layer_cost(graph, graph.by_id["Gemm_1"]).macs == 2048 * 1000
    assert layer_cost(graph, graph.by_id["Reshape_1"]).ops == 0
