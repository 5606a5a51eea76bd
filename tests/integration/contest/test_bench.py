"""``bench.peers.bench`` and the "artifact" kind, on a small model built for this machine."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from bench.peers import BenchReport, bench, random_inputs
from tuner.build.export import build_artifact
from tuner.errors import UserError
from tuner.graph.load import ImportedModel, import_model
from tuner.measure.contest import Contestant, TurnOptions, contest, run_once
from tuner.measure.device import devices
from tuner.search.fusion import greedy

pytestmark = pytest.mark.alone

QUICK = TurnOptions(warm_seconds=0.002, turn_seconds=0.01, foreign_load=float("inf"), patience=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    one, two = (random.standard_normal((16, c, 3, 3)).astype(np.float32) / 10 for c in (3, 16))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "one"], ["a"], pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "two"], ["c"], pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 32, 32])],
        [numpy_helper.from_array(one, "one"), numpy_helper.from_array(two, "two")],
    )
    path = tmp_path_factory.mktemp("bench") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def imported(model: Path) -> ImportedModel:
    return import_model(model)


@pytest.fixture(scope="module")
def artifact(model: Path, imported: ImportedModel) -> Path:
    device = devices("cpu")
    folder = model.parent / "default"
    plan = greedy(imported.graph, device, device.cores)
    build_artifact(folder, imported.graph, imported.weights, plan, device, {"model": imported.sha256})
    return folder


@pytest.fixture(scope="module")
def report(model: Path, artifact: Path) -> BenchReport:
    peers = ["onnxruntime", "tvm"]
    return bench(model, {"default": artifact, "gone": model.parent / "gone"}, peers, rounds=6, options=QUICK)


def test_an_artifact_gives_what_onnxruntime_gives(model: Path, artifact: Path, imported: ImportedModel) -> None:
    inputs = [random_inputs(imported.graph, seed) for seed in (1, 2)]
    threads = devices("cpu").cores
    ours = run_once(Contestant("ours", "artifact", artifact), inputs, threads)
    theirs = run_once(Contestant("theirs", "onnxruntime", model), inputs, threads)
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got["y"], expected["y"], rtol=0, atol=1e-4)
    assert not np.array_equal(ours[0]["y"], ours[1]["y"])


def test_an_artifact_for_more_threads_is_refused(artifact: Path, tmp_path: Path, imported: ImportedModel) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    for name in ("model.so", "params.bin"):
        (tmp_path / name).symlink_to(artifact / name)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"cores": 2}))
    found = contest([Contestant("a", "artifact", tmp_path)], random_inputs(imported.graph), threads=1, rounds=1)
    failure = found["a"].failure
    assert failure is not None and failure.message == "The artifact uses 2 threads, the contest allows 1."


def test_every_contestant_has_a_row_and_failures_say_why(report: BenchReport) -> None:
    assert [row.name for row in report.rows] == ["default", "gone", "onnxruntime", "tvm"]
    gone = report["gone"]
    assert gone.failure is not None and gone.median_ms is None and gone.ratio is None
    for name in ("default", "onnxruntime", "tvm"):
        row = report[name]
        assert row.failure is None
        assert row.min_ms is not None and row.median_ms is not None and 0 < row.min_ms <= row.median_ms
        assert row.peak_memory_mb is not None and row.peak_memory_mb > 10


def test_ratios_are_over_ours_and_errors_against_onnxruntime(report: BenchReport) -> None:
    assert report.ours == "default"
    assert report["default"].ratio is None
    assert report["onnxruntime"].ratio is not None and report["onnxruntime"].ratio.pairs >= 3
    assert report["tvm"].ratio is not None and report["tvm"].ratio.pairs <= 3
    for name in ("default", "tvm"):
        error = report[name].max_rel_error
        assert error is not None and error < 1e-4
    assert report["onnxruntime"].max_rel_error is None


def test_the_report_is_json_and_a_table(report: BenchReport) -> None:
    data = json.loads(json.dumps(report.to_json()))
    assert data["rows"][2]["ratio"]["median"] == report["onnxruntime"].ratio.median
    assert data["machine"]["cores"] == devices("cpu").cores
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(report.table())
    text = console.export_text()
    for row in report.rows:
        assert row.name in text
    assert any("gone" in note for note in report.notes())


def test_other_precisions_are_named_and_not_compared(model: Path) -> None:
    pytest.importorskip("openvino")
    found = bench(model, {}, ["openvino", "onnxruntime"], rounds=2, precision="bf16", options=QUICK)
    assert found["openvino"].precision == "bf16"
    assert found["onnxruntime"].precision == "fp32"
    assert found["onnxruntime"].ratio is None


def test_unknown_peers_and_precisions_are_refused(model: Path) -> None:
    with pytest.raises(UserError, match="'caffe'"):
        bench(model, {}, ["caffe"])
    with pytest.raises(UserError, match="'fp8'"):
        bench(model, {}, ["onnxruntime"], precision="fp8")
