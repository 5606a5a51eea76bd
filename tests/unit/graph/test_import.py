"""import_model from end to end: opsets, identity, invariants of the Graph, to_onnx and back, the child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_models import check, cleaned, model, node, ops, rand, run
from onnx import ModelProto, TensorProto, helper

from tuner.errors import InternalError
from tuner.graph.ir import Graph
from tuner.graph.load import ImportedModel, import_model
from tuner.graph.onnx_io import save_onnx, to_onnx
from tuner.graph.passes.registry import NAMES


def classifier(opset: int) -> ModelProto:
    """The usual suspects, as each opset spells them."""
    constants = {"w": rand(16, 3, 3, 3), "f": rand(5, 16), "fb": rand(5), "v": np.exp(rand(16)), "axes": [2, 3]}
    constants |= {k: rand(16, seed=i) for i, k in enumerate(("s", "b", "m"))}
    squeeze = node("Squeeze", ["p", "axes"], "q") if opset >= 13 else node("Squeeze", ["p"], "q", axes=[2, 3])
    if opset < 13:
        del constants["axes"]
    nodes = [
        node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], "n"),
        node("Relu", ["n"], "r"),
        node("Dropout", ["r"], "d"),
        node("GlobalAveragePool", ["d"], "p"),
        squeeze,
        node("Gemm", ["q", "f", "fb"], "g", transB=1),
        node("Softmax", ["g"], "y", axis=1),
    ]
    return model(nodes, {"x": [2, 3, 6, 6]}, ["y"], constants, opset=opset)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 21, 23, 26])
def test_every_opset_gives_the_same_layers_and_right_results(opset: int) -> None:
    graph = check(classifier(opset), all_passes=True)
    found = ops(graph)
    assert found.pop("Squeeze", 0) + found.pop("Reshape", 0) == 1
    assert found == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Gemm": 1, "Softmax": 1}
    assert graph.opset == max(opset, 17)
    assert check(classifier(opset)).opset == opset


def check_invariants(graph: Graph) -> None:
    """What every other room relies on."""
    names = [out for layer in graph.layers for out in layer.outputs if out]
    assert len({layer.id for layer in graph.layers}) == len(graph.layers)
    assert len(set(names)) == len(names)
    assert set(graph.tensors) == {*graph.inputs, *names}
    assert not set(graph.tensors) & set(graph.constants)
    assert set(graph.outputs) <= set(graph.tensors)
    seen = {*graph.inputs, *graph.constants, ""}
    read = set()
    for layer in graph.layers:
        assert set(layer.inputs) <= seen
        assert layer.inputs[-1:] != ("",)
        seen |= set(layer.outputs)
        read |= set(layer.inputs)
    assert set(graph.constants) <= read
    for constant in graph.constants.values():
        assert len(constant.digest) == 64


@pytest.fixture(scope="module")
def imported() -> ImportedModel:
    return import_model(classifier(9).SerializeToString())


def test_imported_model_is_complete(imported: ImportedModel) -> None:
    check_invariants(imported.graph)
    assert [layer.id for layer in imported.graph.layers] == [
        "Conv_1", "Relu_1", "GlobalAveragePool_1", "Squeeze_1", "Gemm_1", "Softmax_1",
    ]  # fmt: skip
    assert set(imported.weights) == set(imported.graph.constants)
    assert [report.name for report in imported.passes] == list(NAMES)
    assert all(report.enabled and report.seconds >= 0 for report in imported.passes)
    assert imported.passes[-1].after == len(imported.graph.layers)
    for one, two in zip(imported.passes, imported.passes[1:], strict=False):
        assert one.after == two.before


def test_weights_are_read_only_and_survive_their_folder(imported: ImportedModel) -> None:
    for name, array in imported.weights.items():
        assert array.shape == imported.graph.constants[name].shape
        assert array.dtype.name == imported.graph.constants[name].dtype
        if array.size:
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    (ours,) = run(to_onnx(imported.graph, imported.weights))
    (theirs,) = run(classifier(9))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_same_bytes_same_graph_and_other_weights_another_hash(imported: ImportedModel) -> None:
    data = classifier(9).SerializeToString()
    again = import_model(data)
    assert again.graph == imported.graph
    assert again.graph.hash == imported.graph.hash
    assert again.sha256 == imported.sha256
    assert import_model(data, disabled=["fold-scale-shift"]).graph.hash != imported.graph.hash
    other = classifier(9)
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(rand(16, 3, 3, 3, seed=9), "w"))
    assert cleaned(other)[0].hash != imported.graph.hash


def test_json_round_trip(imported: ImportedModel) -> None:
    tricky = model(
        [
            node("ConstantOfShape", ["n"], "c", value=helper.make_tensor("v", TensorProto.INT64, [1], [7])),
            node("Cast", ["c"], "f", to=1),
            node("LeakyRelu", ["x"], "l", alpha=0.1),
            node("Add", ["l", "f"], "y"),
        ],
        {"x": [3]},
        ["y"],
        {"n": [3]},
    )
    for graph in (imported.graph, check(tricky)):
        again = Graph.from_json(json.loads(json.dumps(graph.to_json())))
        assert again == graph
        assert again.hash == graph.hash


def test_literals_carry_their_values() -> None:
    proto = model([node("Reshape", ["x", "to"], "a"), node("Mul", ["a", "half"], "y")], {"x": [2, 3]}, ["y"],
                  {"to": [3, 2], "half": 0.5})  # fmt: skip
    graph, _ = cleaned(proto)
    assert {c.value for c in graph.constants.values()} == {(3, 2), (0.5,)}
    bare = to_onnx(graph, {})  # literals need no arrays
    np.testing.assert_allclose(run(bare)[0], run(proto)[0])


def test_to_onnx_refuses_missing_and_wrong_arrays(imported: ImportedModel) -> None:
    with pytest.raises(InternalError, match="has no array"):
        to_onnx(imported.graph, {})
    wrong = {name: array.astype(np.float64) for name, array in imported.weights.items()}
    with pytest.raises(InternalError, match="its array is"):
        to_onnx(imported.graph, wrong)


def test_save_onnx(imported: ImportedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_onnx(imported.graph, imported.weights, tmp_path / "one.onnx")
    assert not (tmp_path / "one.onnx.data").exists()
    monkeypatch.setattr("tuner.graph.onnx_io._EXTERNAL_FROM", 100)
    save_onnx(imported.graph, imported.weights, tmp_path / "two.onnx")
    assert (tmp_path / "two.onnx.data").exists()
    one, two = (import_model(tmp_path / f"{n}.onnx") for n in ("one", "two"))
    assert one.graph == two.graph == imported.graph
    assert one.name == "one"


def test_attributes_of_every_kind_and_other_dtypes() -> None:
    proto = model(
        [
            node("Cast", ["x"], "h", to=TensorProto.FLOAT16),
            node("Clip", ["h", "", "top"], "k"),
            node("Cast", ["k"], "d", to=TensorProto.DOUBLE),
            node("Cast", ["d"], "back", to=TensorProto.FLOAT),
            node("LSTM", ["s", "w", "r"], ["", "hidden"], hidden_size=4, activations=["Sigmoid", "Tanh", "Relu"]),
            node("Resize", ["img", "", "scales"], "big", mode="nearest"),
        ],
        {"x": [2, 3], "s": [5, 1, 2], "img": [1, 1, 2, 2]},
        ["back", "hidden", "big"],
        {"top": np.float16(0.5), "w": rand(1, 16, 2), "r": rand(1, 16, 4), "scales": [1.0, 1.0, 2.0, 2.0]},
    )
    graph = check(proto, all_passes=True)
    assert graph.tensors["big"].shape == (1, 1, 4, 4)
    assert graph.tensors["d"].dtype == "float64"


def test_microsoft_operators_are_kept() -> None:
    proto = model([node("FusedMatMul", ["x", "w"], "m", domain="com.microsoft", alpha=0.5), node("Relu", ["m"], "y")],
                  {"x": [2, 3]}, ["y"], {"w": rand(3, 4)})  # fmt: skip
    graph, weights = cleaned(proto)
    assert graph.layers[0].domain == "com.microsoft"
    assert graph.tensors["y"].shape == (2, 4)
    np.testing.assert_allclose(run(to_onnx(graph, weights))[0], run(proto)[0], rtol=1e-6)


def test_local_functions_are_inlined() -> None:
    proto = model([node("Twice", ["x"], "y", domain="mine")], {"x": [2, 3]}, ["y"])
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    body = [node("Add", ["a", "a"], "b")]
    proto.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    assert ops(check(proto, all_passes=True)) == {"Add": 1}


def test_the_child_never_imports_tvm() -> None:
    code = "import sys, tuner.graph.child, tuner.graph.clean; print('tvm' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "False"


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed while its child works leaves no process behind."""
    fifo = tmp_path / "slow.onnx"
    os.mkfifo(fifo)
    (tmp_path / "request.json").write_text("{}")
    code = f"""
import json, os, subprocess, sys, pathlib
folder = pathlib.Path({str(tmp_path)!r})
request = dict(path=str(folder / "slow.onnx"), external=False, shapes={{}}, disabled=[], memory=1 << 33, cpu=60,
               tensor=1 << 30, constants=1 << 30, parent=os.getpid())
(folder / "request.json").write_text(json.dumps(request))
child = subprocess.Popen([sys.executable, "-m", "tuner.graph.child", str(folder)], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""
    root = Path(__file__).parents[3]
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    writer = os.open(fifo, os.O_WRONLY)  # returns once the child has opened the model, so it is well under way
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not _alive(pid):
            break
        time.sleep(0.05)
    os.close(writer)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
