"""Concatenations without a kernel: what makes a part writes into its slice of the whole; what cannot is copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from build_models import (
    Weights,
    agree,
    build,
    build_and_compare,
    cleaned,
    feeds,
    machine,
    node,
    onnxruntime_outputs,
    rand,
)

from tuner.build.assemble import assemble
from tuner.build.memory import most_alive
from tuner.build.objects import KernelObject, Objects, symbol_of
from tuner.graph.clean import clean
from tuner.graph.export import digests_of, to_graph
from tuner.graph.ir import Graph
from tuner.graph.work import Sizes
from tuner.graph.zoo import write
from tuner.kernels.registry import template
from tuner.plan.plan import Plan
from tuner.search.fusion import greedy, unfused
from tuner.types import Candidate, Device

OFF = ["flatten-concat", "merge-siblings"]
X = {"x": [1, 16, 6, 6]}
W = {n: rand(16, 16, 1, 1, seed=k) for k, n in enumerate(("w1", "w2", "w3"))}


def conv(source: str, weights: str, out: str) -> onnx.NodeProto:
    return node("Conv", [source, weights], out, kernel_shape=[1, 1])


A, B, C = conv("x", "w1", "a"), conv("x", "w2", "b"), conv("x", "w3", "c")


def cat(out: str, *parts: str, axis: int = 1) -> onnx.NodeProto:
    return node("Concat", parts, out, axis=axis)


# nodes, inputs, results, further constants; then how many kernels join and how many copy one part
CASES: dict[str, tuple[Sequence[onnx.NodeProto], dict[str, Any], list[str], Weights, tuple[int, int]]] = {
    "read by a convolution": ([A, B, cat("j", "a", "b"), conv("j", "v", "y")], X, ["y"],
                              {"v": rand(16, 32, 1, 1)}, (0, 0)),
    "nested": ([A, B, C, cat("i", "a", "b"), cat("j", "c", "i"), conv("j", "v", "z"), conv("i", "u", "k"),
                node("Add", ["k", "z"], "y")], X, ["y"], {"v": rand(16, 48, 1, 1), "u": rand(16, 32, 1, 1)}, (0, 0)),
    "a part read by others": ([A, B, cat("j", "a", "b"), conv("a", "w3", "d"), conv("j", "v", "e"),
                               node("Add", ["d", "e"], "y")], X, ["y"], {"v": rand(16, 32, 1, 1)}, (0, 0)),
    "the last part does not fill its block": (
        [A, conv("x", "u", "b"), cat("j", "a", "b"), conv("j", "v", "y")], X, ["y"],
        {"u": rand(5, 16, 1, 1), "v": rand(16, 21, 1, 1)}, (0, 0)),
    "another part does not": ([conv("x", "u", "b"), A, cat("j", "b", "a"), conv("j", "v", "y")], X, ["y"],
                              {"u": rand(5, 16, 1, 1), "v": rand(16, 21, 1, 1)}, (1, 0)),
    "batch of two": ([A, B, cat("j", "a", "b"), conv("j", "v", "y")], {"x": [2, 16, 6, 6]}, ["y"],
                     {"v": rand(16, 32, 1, 1)}, (1, 0)),
    "one part twice": ([A, cat("j", "a", "a"), conv("j", "v", "y")], X, ["y"], {"v": rand(16, 32, 1, 1)}, (0, 1)),
    "one part in two": ([A, B, C, cat("j", "a", "b"), cat("k", "c", "a"), conv("j", "v", "s"), conv("k", "v", "t"),
                         node("Add", ["s", "t"], "y")], X, ["y"], {"v": rand(16, 32, 1, 1)}, (0, 1)),
    "the input as a part": ([node("Relu", ["x"], "r"), cat("y", "r", "x")], X, ["y"], {}, (0, 1)),
    "inputs alone": ([cat("y", "x", "z")], {**X, "z": [1, 16, 6, 6]}, ["y"], {}, (1, 0)),
    "a result as a part": ([node("Relu", ["x"], "r"), node("Neg", ["x"], "n"), cat("y", "r", "n")], X, ["y", "r"],
                           {}, (0, 1)),
    "imported parts": ([node("ConvTranspose", ["x", "w1"], "t", dilations=[2, 2]), A, cat("j", "t", "a"),
                        conv("j", "v", "y")], X, ["y"], {"v": rand(16, 32, 1, 1)}, (0, 0)),
    "views as parts": ([A, B, node("Flatten", ["a"], "f"), node("Flatten", ["b"], "g"), cat("y", "f", "g")], X, ["y"],
                       {}, (1, 0)),
    "rows": ([node("Relu", ["x"], "r"), node("Neg", ["x"], "n"), cat("y", "r", "n", axis=2)],
             {"x": [1, 1, 16, 6]}, ["y"], {}, (0, 0)),
    "slices that are not aligned": ([node("Relu", ["x"], "r"), node("Neg", ["x"], "n"), cat("y", "r", "n")],
                                    {"x": [1, 5]}, ["y"], {}, (1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_a_concatenation(what: str, tmp_path: Path) -> None:
    nodes, inputs, outputs, constants, expected = CASES[what]
    used = {n for x in nodes for n in x.input}
    weights = {n: v for n, v in {**W, **constants}.items() if n in used}
    model = build_and_compare(tmp_path, *cleaned(nodes, inputs, outputs, weights, disabled=OFF))
    kernels = model.manifest["kernels"]
    joins = sum(any(i.startswith("Concat") for i in k["layers"]) for k in kernels)
    copies = sum(k["template"] == "layout" and k["layouts"]["i0"] == k["layouts"]["t0"] for k in kernels)
    assert (joins, copies) == expected, [(k["template"], k["layers"], k["layouts"]) for k in kernels]
    assert model.manifest["memory"]["activations"] > 0


def zoo_model(name: str, folder: Path) -> tuple[Graph, Weights]:
    data = write(name, folder / f"{name}.onnx").read_bytes()
    work = clean(data, None, {}, (), Sizes(tensor=1 << 30, constants=1 << 31)).work
    graph = to_graph(work, digests_of(work))
    return graph, {n: work.arrays[n] for n in graph.constants}


class Described(Objects):
    """Kernels that are not compiled: enough to plan memory."""

    def compiled(self, candidate: Candidate, device: Device, part: bool = False) -> KernelObject:
        workload = Graph.from_json(candidate.workload)
        maker = template(candidate.template)
        made = maker.build(workload, candidate.layouts, candidate.knobs, candidate.cores, device)
        return KernelObject(self.folder, symbol_of(candidate), made.args, made.packs, -1)


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [("squeezenet", 4.1),
     pytest.param("inception_v1", 4.9, marks=pytest.mark.slow),
     pytest.param("shufflenet", 3.5, marks=pytest.mark.slow),
     pytest.param("densenet121", 8.0, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_whole_model_needs_little_memory_and_no_plain_concatenation(
    name: str, megabytes: float, tmp_path: Path
) -> None:
    graph, weights = zoo_model(name, tmp_path)
    device = machine()
    found = assemble(graph, weights, greedy(graph, device, device.cores), device, Described(tmp_path))
    least = most_alive(found.program)
    assert least <= found.memory.bytes <= min(1.1 * least, megabytes * 1e6)
    kernels = Counter(tuple(graph.by_id[i].op for i in step.layers) for step in found.steps)
    assert kernels["Concat",] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "inception_v1", "shufflenet", "densenet121"])
@pytest.mark.parametrize("how", [greedy, unfused])
def test_whole_models_are_right(name: str, how: Callable[..., Plan], tmp_path: Path) -> None:
    graph, weights = zoo_model(name, tmp_path)
    model = build(tmp_path / "built", graph, weights, how(graph, machine(), machine().cores))
    inputs = feeds(graph)
    for _ in range(2):  # what the first run left in the storages must not matter
        agree(model.run(inputs), onnxruntime_outputs(graph, weights, inputs), 1e-4)


def test_results_of_one_run_outlive_the_next(tmp_path: Path) -> None:
    model = build_and_compare(tmp_path, *cleaned([A, B, cat("y", "a", "b")], X, ["y"], {n: W[n] for n in ("w1", "w2")}))
    first, second = ({"x": rand(1, 16, 6, 6, seed=s)} for s in (1, 2))
    before = model.run(first)["y"]
    kept = before.copy()
    model.run(second)
    np.testing.assert_array_equal(before, kept)
