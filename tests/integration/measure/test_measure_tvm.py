"""One real trial: a TVM kernel, the real ONNX Runtime reference, blocked layouts with and without padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from conftest import OPTIONS

from tuner.graph.ir import Constant, Graph, Layer, Tensor
from tuner.measure.local import LocalRunner
from tuner.measure.options import MeasureOptions
from tuner.types import Candidate

pytestmark = pytest.mark.alone


def biased_relu(channels: int) -> Graph:
    shape = (1, channels, 9, 9)
    tensors = {name: Tensor(name, shape) for name in ("i0", "t0", "t1")}
    layers = (Layer("l0", "Add", ("i0", "c0"), ("t0",)), Layer("l1", "Relu", ("t0",), ("t1",)))
    return Graph(("i0",), ("t1",), layers, tensors, {"c0": Constant("c0", (channels, 1, 1))})


@pytest.mark.parametrize("residency", ["dram", "cache"])
def test_tvm_kernels_are_verified_and_timed(make_runner: Callable[..., LocalRunner], residency: str) -> None:
    real = MeasureOptions().onnx_function
    runner = make_runner(
        replace(OPTIONS, build_function="measure_tvm:build", onnx_function=real, build_limit=60, patience=0.02)
    )
    candidates = []
    for channels in (32, 20):
        for cores in (1, runner.devices()[0].cores):
            g = biased_relu(channels)
            layouts = {"i0": "NCHW16c", "t1": "NCHW16c"}
            candidates.append(Candidate(g.to_json(), g.hash, layouts, "t", 1, {}, cores, residency=residency))
    trials = list(runner.run(candidates))
    assert len(trials) == 4
    for trial in trials:
        assert trial.failure is None, trial.failure
        assert trial.max_rel_error == 0.0 and trial.seconds is not None and trial.seconds > 0
    assert runner._floor is not None and 1e-6 < runner._floor < 1e-2  # contention was gauged
