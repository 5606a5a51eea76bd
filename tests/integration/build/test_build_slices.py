"""Slices without a kernel: read where they lie in what a kernel wrote; else a kernel copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from build_models import Weights, build_and_compare, cleaned, machine, node, rand

from tuner.search.fusion import greedy, unfused

X = {"x": [1, 16, 6, 6]}


def conv(source: str, weights: str, out: str, **attrs: Any) -> onnx.NodeProto:
    return node("Conv", [source, weights], out, **attrs)


def cut(source: str, out: str, start: int, stop: int, axis: int = 1) -> tuple[onnx.NodeProto, dict[str, Any]]:
    bounds = {f"{out}_{k}": [v] for k, v in (("start", start), ("stop", stop), ("axis", axis))}
    return node("Slice", [source, *bounds], out), bounds


def slicing(source: str, *cuts: tuple[str, int, int]) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    made = [cut(source, *c) for c in cuts]
    return [n for n, _ in made], {k: v for _, bounds in made for k, v in bounds.items()}


WIDE = conv("x", "w", "c")
AB = slicing("c", ("a", 0, 16), ("b", 16, 48))
BACK = [conv("a", "v", "d"), node("Add", ["d", "x"], "s"), node("Concat", ["s", "b"], "y", axis=1)]
ROUGH = slicing("c", ("a", 0, 5), ("b", 5, 48))

# nodes, inputs, results, constants; then how many kernels cut, and how many copy
CASES: dict[str, tuple[Sequence[onnx.NodeProto], dict[str, Any], list[str], dict[str, Any], tuple[int, int]]] = {
    "of a convolution": ([WIDE, *AB[0], *BACK], X, ["y"], {"v": rand(16, 16, 1, 1), **AB[1]}, (0, 0)),
    "inside a block": ([WIDE, *ROUGH[0], conv("a", "v", "d"), conv("b", "u", "e"), node("Add", ["d", "e"], "y")], X,
                       ["y"], {"v": rand(16, 5, 1, 1), "u": rand(16, 43, 1, 1), **ROUGH[1]}, (1, 0)),
    "of the input": ([*slicing("x", ("a", 0, 8), ("b", 8, 16))[0], node("Mul", ["a", "b"], "y")], X, ["y"],
                     slicing("x", ("a", 0, 8), ("b", 8, 16))[1], (2, 0)),
    "of two images": ([WIDE, *AB[0], *BACK], {"x": [2, 16, 6, 6]}, ["y"], {"v": rand(16, 16, 1, 1), **AB[1]}, (2, 0)),
    "as results": ([node("Relu", ["x"], "r"), *slicing("r", ("a", 0, 4), ("b", 4, 16))[0]], X, ["a", "b"],
                   slicing("r", ("a", 0, 4), ("b", 4, 16))[1], (0, 2)),
    "of a concatenation": ([conv("x", "v", "e"), WIDE, node("Concat", ["e", "c"], "j", axis=1),
                            *slicing("j", ("a", 32, 64))[0], conv("a", "u", "y")], X, ["y"],
                           {"v": rand(16, 16, 1, 1), "u": rand(16, 32, 1, 1), **slicing("j", ("a", 32, 64))[1]},
                           (0, 0)),
    "of a slice": ([WIDE, *AB[0], *slicing("b", ("e", 16, 32))[0], conv("e", "v", "g"), node("Add", ["a", "g"], "y")],
                   X, ["y"], {"v": rand(16, 16, 1, 1), **AB[1], **slicing("b", ("e", 16, 32))[1]}, (0, 0)),
    "of images": ([WIDE, cut("c", "a", 1, 3, 0)[0], cut("c", "b", 0, 2, 0)[0], node("Relu", ["a"], "r"),
                   conv("b", "v", "e", pads=[1] * 4), node("Concat", ["r", "e"], "j", axis=0), conv("j", "v", "y")],
                  {"x": [4, 16, 6, 6]}, ["y"], {"v": rand(48, 48, 3, 3), **cut("c", "a", 1, 3, 0)[1],
                                                **cut("c", "b", 0, 2, 0)[1]}, (0, 0)),
    "of rows": ([node("Relu", ["x"], "r"), cut("r", "a", 1, 5, 2)[0], conv("a", "v", "y")], X, ["y"],
                {"v": rand(16, 16, 3, 3), **cut("r", "a", 1, 5, 2)[1]}, (1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_a_slice(what: str, tmp_path: Path) -> None:
    nodes, inputs, outputs, constants, expected = CASES[what]
    used = {n for x in nodes for n in x.input}
    weights: Weights = {n: v for n, v in {"w": rand(48, 16, 1, 1), **constants}.items() if n in used}
    model = build_and_compare(tmp_path, *cleaned(nodes, inputs, outputs, weights))
    kernels = model.manifest["kernels"]
    cuts = sum(any(i.startswith("Slice") for i in k["layers"]) for k in kernels)
    copies = sum(k["template"] == "layout" and k["layouts"]["i0"] == k["layouts"]["t0"] for k in kernels)
    assert (cuts, copies) == expected, [(k["template"], k["layers"], k["layouts"]) for k in kernels]


def module(ends: str) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """An inception module, whose concatenation begins or ends with one of the siblings."""
    nodes = [
        conv("x", "w", "c0"), node("Relu", ["c0"], "r0"), conv("x", "u", "c1"), node("Relu", ["c1"], "r1"),
        conv("r1", "k", "d1", pads=[1, 1, 1, 1]), node("MaxPool", ["x"], "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        conv("p", "v", "d2"),
        node("Concat", ["r0", "d1", "d2"] if ends == "first" else ["d1", "d2", "r0"], "j", axis=1),
        conv("j", "z", "y"),
    ]  # fmt: skip
    weights = {"w": rand(32, 16, 1, 1), "u": rand(24, 16, 1, 1, seed=1), "k": rand(16, 24, 3, 3, seed=2),
               "v": rand(16, 16, 1, 1, seed=3), "z": rand(16, 64, 1, 1, seed=4)}  # fmt: skip
    return nodes, weights


@pytest.mark.parametrize(("ends", "how"), [("first", greedy), ("last", unfused)])
def test_merged_siblings_and_their_concatenation_share_memory(ends: str, how: Any, tmp_path: Path) -> None:
    nodes, weights = module(ends)
    graph, arrays = cleaned(nodes, X, ["y"], weights)
    device = machine()
    model = build_and_compare(tmp_path, graph, arrays, how(graph, device, device.cores))
    ran = [i for k in model.manifest["kernels"] for i in k["layers"]]
    assert not [i for i in ran if i.startswith(("Slice", "Concat"))]
    layouts = [k["layouts"] for k in model.manifest["kernels"] if k["template"] == "layout"]
    assert all(changed["i0"] != changed["t0"] for changed in layouts)
