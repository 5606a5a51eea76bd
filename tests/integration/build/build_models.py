"""Whole models through assemble, compile, export and load, held against ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tuner.build.artifact import LoadedModel, load
from tuner.build.blocks import knobs_of
from tuner.build.export import build_artifact
from tuner.graph.clean import clean
from tuner.graph.export import digests_of, to_graph
from tuner.graph.ir import Graph
from tuner.graph.onnx_io import to_onnx
from tuner.graph.work import Sizes
from tuner.measure.device import detect_cpu
from tuner.plan.legality import validate
from tuner.plan.plan import Plan
from tuner.plan.workload import workload_of
from tuner.search.fusion import greedy
from tuner.types import Candidate, Device
from tuner.versions import TEMPLATES as VERSIONS

Weights = Mapping[str, np.ndarray]
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


def machine() -> Device:
    """This machine, its cores capped: tests share it."""
    found = detect_cpu()
    return replace(found, cores=min(found.cores, 2))


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def node(op: str, inputs: Sequence[str], outputs: str | Sequence[str], **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [outputs] if isinstance(outputs, str) else outputs, **attrs)


def cleaned(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int] | tuple[str, Sequence[int]]],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    disabled: Collection[str] = (),
) -> tuple[Graph, Weights]:
    """Graph and weights of a model; an input is a shape (float32) or (dtype, shape)."""

    def declared(name: str, spec: Any) -> onnx.ValueInfoProto:
        dtype, shape = spec if spec and isinstance(spec[0], str) else ("float32", spec)
        return helper.make_tensor_value_info(name, TYPES[dtype], shape)

    graph = helper.make_graph(
        nodes,
        "test",
        [declared(n, spec) for n, spec in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(np.asarray(v, order="C"), n) for n, v in (constants or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    work = clean(proto.SerializeToString(), None, {}, disabled, Sizes(tensor=1 << 26, constants=1 << 27)).work
    found = to_graph(work, digests_of(work))
    return found, {name: work.arrays[name] for name in found.constants}


def feeds(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs; integers are small and not negative, so that they may be indices."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in graph.inputs:
        t = graph.tensors[name]
        if t.dtype == "bool":
            made[name] = rng.integers(0, 2, t.shape).astype(bool)
        elif t.dtype.startswith("int"):
            made[name] = rng.integers(0, 3, t.shape).astype(t.dtype)
        else:
            made[name] = rng.standard_normal(t.shape).astype(t.dtype)
    return made


def onnxruntime_outputs(graph: Graph, weights: Weights, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = to_onnx(graph, dict(weights)).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return dict(zip(graph.outputs, session.run(list(graph.outputs), dict(inputs)), strict=True))


def build(folder: Path, graph: Graph, weights: Weights, plan: Plan | None = None) -> LoadedModel:
    """The model as an artifact in ``folder``, loaded again; its plan is checked first."""
    device = machine()
    plan = plan or greedy(graph, device, device.cores)
    validate(plan, graph, device.cores)
    build_artifact(folder, graph, weights, Plan.from_json(plan.to_json()), device, {"model": "test"})
    return load(folder)


def agree(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], limit: float = 2e-5) -> None:
    """Same names, shapes and types; numbers within ``limit`` of the largest."""
    assert got.keys() == expected.keys()
    for name, reference in expected.items():
        ours = got[name]
        assert (ours.shape, ours.dtype) == (reference.shape, reference.dtype), name
        if not np.issubdtype(reference.dtype, np.floating):
            np.testing.assert_array_equal(ours, reference, name)
            continue
        scale = float(np.abs(reference).max(initial=0.0))
        np.testing.assert_allclose(ours, reference, rtol=0, atol=limit * max(scale, 1e-30), err_msg=name)


def build_and_compare(folder: Path, graph: Graph, weights: Weights, plan: Plan | None = None) -> LoadedModel:
    model = build(folder, graph, weights, plan)
    for seed in range(2):
        inputs = feeds(graph, seed)
        agree(model.run(inputs), onnxruntime_outputs(graph, weights, inputs))
    return model


def small_net() -> tuple[Graph, Weights]:
    """Convolutions, pooling, a Concat that straddles blocks, a residual, a classifier with Softmax."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], "c1", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], "r1"),
        node("MaxPool", ["r1"], "p1", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["p1", "w2"], "c2", kernel_shape=[1, 1]),
        node("Conv", ["p1", "w3"], "c3", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Concat", ["c2", "c3"], "cat", axis=1),
        node("Conv", ["cat", "w4"], "c4", kernel_shape=[1, 1]),
        node("Add", ["c4", "p1"], "sum"),
        node("Relu", ["sum"], "r2"),
        node("GlobalAveragePool", ["r2"], "gap"),
        node("Flatten", ["gap"], "flat"),
        node("Gemm", ["flat", "w5", "b5"], "fc", transB=1),
        node("Softmax", ["fc"], "y"),
    ]
    constants = {
        "w1": rand(24, 3, 3, 3, seed=1) * 0.3, "b1": rand(24, seed=2), "w2": rand(10, 24, 1, 1, seed=3) * 0.2,
        "w3": rand(17, 24, 3, 3, seed=4) * 0.1, "w4": rand(24, 27, 1, 1, seed=5) * 0.2,
        "w5": rand(10, 24, seed=6) * 0.3, "b5": rand(10, seed=7),
    }  # fmt: skip
    return cleaned(nodes, {"x": [1, 3, 31, 33]}, ["y"], {n: v.astype(np.float32) for n, v in constants.items()})


def stock_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in another process and folder, where fusetune cannot be imported."""
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "TVM_NUM_THREADS"}}
    guard = "import sys\nsys.modules.update(dict.fromkeys(['tuner', 'service', 'db', 'cost_model']))\n"
    return subprocess.run(
        [sys.executable, "-c", guard + code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def candidates(net: tuple[Graph, Weights]) -> list[Candidate]:
    """One candidate for each block of the greedy plan that has a template."""
    graph, _ = net
    device = machine()
    plan = greedy(graph, device, device.cores)
    found = []
    for block in plan.blocks:
        if block.template == "view":
            continue
        bound = workload_of(graph, block.layers)
        w = bound.workload
        layouts = {n: block.reads.get(bound.names[n], plan.layout(bound.names[n])) for n in w.inputs}
        layouts |= {n: plan.layout(bound.names[n]) for n in w.outputs}
        knobs = knobs_of(block, w, layouts, device) or {}
        version = VERSIONS[block.template]
        found.append(Candidate(w.to_json(), w.hash, layouts, block.template, version, knobs, block.cores))
    return found


LOADER = """
import tvm
from tvm.s_tir import meta_schedule as ms
database = ms.database.JSONDatabase("database_workload.json", "database_tuning_record.json")
records = list(database.get_all_tuning_records())
for record in records:
    schedule = tvm.s_tir.Schedule(record.workload.mod)
    record.trace.apply_to_schedule(schedule, remove_postproc=False)
    library = tvm.compile(schedule.mod, target=record.target)
    print(len(record.workload.mod["main"].params), [float(s) for s in record.run_secs])
best = database.get_top_k(database.commit_workload(records[0].workload.mod), 1)
print("best", float(best[0].run_secs[0]))
"""
