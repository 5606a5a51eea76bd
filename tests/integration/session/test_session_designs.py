"""A job with layers that no template serves: their kernels are searched, kept, verified, exported and asked no more."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[2] / "unit" / "search"))
sys.path.append(str(Path(__file__).parents[1] / "build"))
from build_models import agree, feeds, machine, node, onnxruntime_outputs, rand
from search_fakes import MemoryStore

from tuner.build.artifact import load
from tuner.graph.load import import_model
from tuner.kernels.design import SPACE
from tuner.session import Session
from tuner.types import Budget, JobSpec

DEVICE = machine()
pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transposed convolution with holes, a convolution of ours, and a norm."""
    proto = helper.make_model(
        helper.make_graph(
            [
                node("ConvTranspose", ["x", "w", "b"], "a", strides=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]),
                node("Conv", ["a", "v"], "c"), node("Relu", ["c"], "d"),
                node("ReduceL2", ["d"], "y", axes=[2, 3], keepdims=0),
            ],
            "m", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 16, 14, 14))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 32))],
            [numpy_helper.from_array(rand(16, 16, 4, 4) / 16, "w"), numpy_helper.from_array(rand(16, seed=1), "b"),
             numpy_helper.from_array(rand(32, 16, 1, 1, seed=2) / 4, "v")],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=10,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(proto, path)
    return path


def job(model: Path, store: MemoryStore, trials: int, out: Path | None = None, **more: Any) -> Mapping[str, Any]:
    spec = JobSpec("m", budget=Budget(trials=trials), cores=(DEVICE.cores,), **more)
    return Session(spec, model, DEVICE, store=store, out=out, baselines=False).run()


def templates(report: Mapping[str, Any]) -> dict[str, str]:
    return {"+".join(block["layers"]): block["template"] for block in report["blocks"] if block["layers"]}


@pytest.fixture(scope="module")
def first(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, Any], MemoryStore, Path]:
    store, out = MemoryStore(), tmp_path_factory.mktemp("out") / "artifact"
    return job(model, store, 24, out), store, out


def test_its_kernels_are_searched_and_what_came_out_is_right(
    model: Path, first: tuple[Mapping[str, Any], MemoryStore, Path]
) -> None:
    report, store, out = first
    designs = [t for t in store.trials if t.candidate.template == "design"]
    assert len({t.candidate.workload_hash for t in designs}) == 2  # the transposed convolution and the norm
    assert any(t.candidate.knobs[SPACE] for t in designs if t.seconds)
    assert all(t.failure is not None for t in designs if not t.samples)
    assert report["verification"]["passed"] and set(templates(report).values()) == {"design", "conv2d"}
    read = import_model(model)
    given = feeds(read.graph)
    agree(load(out).run(given), onnxruntime_outputs(read.graph, dict(read.weights), given))


def test_the_best_of_a_search_is_no_slower_than_the_default(
    first: tuple[Mapping[str, Any], MemoryStore, Path],
) -> None:
    _, store, _ = first
    for name in {t.candidate.workload_hash for t in store.trials if t.candidate.template == "design"}:
        found = [t for t in store.trials if t.candidate.workload_hash == name and t.seconds and not t.failure]
        default = [t.seconds for t in found if not any(t.candidate.knobs.values())]
        assert default and min(t.seconds for t in found if t.seconds) <= min(s for s in default if s)


def test_a_resumed_job_measures_nothing_again(model: Path, first: tuple[Mapping[str, Any], MemoryStore, Path]) -> None:
    report, store, _ = first
    resumed = MemoryStore(own=store.trials)
    again = job(model, resumed, report["budget"]["trials"])
    assert len(resumed.trials) == len(store.trials)
    assert templates(again) == templates(report)


def test_records_alone_answer_another_job(model: Path, first: tuple[Mapping[str, Any], MemoryStore, Path]) -> None:
    _, store, _ = first
    known = MemoryStore(store.trials)
    spec = JobSpec("m", cores=(DEVICE.cores,))
    report = Session(spec, model, DEVICE, store=known, baselines=False, search=False).run()
    assert len(known.trials) == len(store.trials) and report["trials"]["reused"] and not report["trials"]["measured"]
    chosen = {"+".join(b["layers"]): b["knobs"] for b in report["blocks"] if b["template"] == "design"}
    assert len(chosen) == 2 and any(knobs[SPACE] for knobs in chosen.values())


def test_a_plan_with_tuned_designs_is_built_as_it_says(
    model: Path, first: tuple[Mapping[str, Any], MemoryStore, Path], tmp_path: Path
) -> None:
    plan = json.loads((first[2] / "plan.json").read_text())
    store = MemoryStore()
    report = job(model, store, 0, tmp_path / "again", plan=plan)
    assert templates(report) == templates(first[0]) and report["verification"]["passed"]
    assert json.loads((tmp_path / "again" / "plan.json").read_text())["stages"] == plan["stages"]


def test_the_tuning_log_has_their_traces(first: tuple[Mapping[str, Any], MemoryStore, Path]) -> None:
    lines = (first[2] / "tuning_log" / "database_tuning_record.json").read_text().splitlines()
    assert any("meta_schedule.parallel" in line for line in lines)
