"""A job with a limit on its model's memory builds what fits. Times of kernels are made up, the kernels are not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[2] / "unit" / "search"))
sys.path.append(str(Path(__file__).parents[1] / "build"))
from build_models import machine, node, rand
from search_fakes import MemoryStore, trial

from tuner import comparing
from tuner.errors import UserError
from tuner.graph.load import import_model
from tuner.residency import residency
from tuner.search.fusion import greedy
from tuner.search.questions import core_counts, questions
from tuner.session import Session
from tuner.types import JobSpec, Trial

CHANNELS, SIZE = 64, 14
DEVICE = machine()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three convolutions, of which Winograd can do the latter two: their images are in blocks."""
    shape = (1, CHANNELS, SIZE, SIZE)
    proto = helper.make_model(
        helper.make_graph(
            [
                node("Conv", ["x", "v"], "a", pads=(1, 1, 1, 1)), node("Relu", ["a"], "b"),
                node("Conv", ["b", "w"], "c", pads=(1, 1, 1, 1)), node("Sigmoid", ["c"], "d"),
                node("Conv", ["d", "u"], "y", pads=(1, 1, 1, 1)),
            ],
            "m", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(rand(CHANNELS, CHANNELS, 3, 3, seed=i) / 24, n) for i, n in enumerate("vwu")],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=10,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module")
def known(model: Path) -> list[Trial]:
    """Winograd is said to be fast, more so in later convolutions."""
    read = import_model(model)
    plan = greedy(read.graph, DEVICE, DEVICE.cores)
    asked = questions(plan, read.graph, DEVICE, cores=core_counts(None, DEVICE), precision="fp32", seed=0,
                      residency=residency(read.graph, DEVICE))  # fmt: skip
    found = []
    for number, question in enumerate(asked.values()):
        for search in question.mains:
            seconds = 1e-5 / (1 + number) if search.candidate.template == "winograd" else 1e-3
            found.append(trial(search.with_knobs(search.space.default), seconds))
    return found


def tuned(model: Path, known: list[Trial], limit: int | None) -> Mapping[str, Any]:
    spec = JobSpec("m", strategy="greedy", memory_limit=limit)
    return Session(spec, model, DEVICE, store=MemoryStore(known), baselines=False, search=False).run()


def templates(report: Mapping[str, Any]) -> list[str]:
    """Of its convolutions."""
    return [block["template"] for block in report["blocks"] if block["template"] != "layout"]


def test_a_model_stays_within_its_limit(model: Path, known: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "fastest", lambda _, names: names[0])  # "tuned", whatever this machine says
    free = tuned(model, known, None)
    assert templates(free) == ["conv2d", "winograd", "winograd"]
    size = free["memory"]["weights"] + free["memory"]["activations"]
    assert tuned(model, known, size)["memory"] == free["memory"] | {"limit": size}
    tight = tuned(model, known, size - 1)
    assert templates(tight) == ["conv2d", "conv2d", "winograd"]
    assert tight["memory"]["weights"] + tight["memory"]["activations"] < size


def test_a_limit_that_nothing_fits_in_is_refused_before_the_search(model: Path) -> None:
    with pytest.raises(UserError, match="limit of 4096") as refused:
        tuned(model, [], 4096)
    assert refused.value.code == "memory-limit" and "--memory-limit" in refused.value.hint
