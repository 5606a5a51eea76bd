"""Halo geometry against a reference that marks every needed row by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
from plan_graphs import graph_of, layer, random_dag, residual

from tuner.graph.ir import Graph, Layer
from tuner.plan.halo import Halo, band_rows

COUNTS = (1, 2, 3, 5, 7, 32)
WHOLE = {"GlobalAveragePool", "Flatten"}


def rows_of(graph: Graph, name: str) -> int:
    shape = graph.tensors[name].shape
    return shape[0] if len(shape) == 2 else shape[2]


def marked(graph: Graph, outputs: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """Rows of every tensor that this band needs, row by row; gaps between them are filled."""
    needed: dict[str, set[int]] = {name: set(rows) for name, rows in outputs.items()}
    for x in reversed(graph.layers):
        own = set().union(*(needed.get(o, set()) for o in x.outputs)) or {0}
        own = set(range(min(own), max(own) + 1))
        for name in x.outputs:
            needed[name] = own
        for name in x.inputs:
            if name in graph.tensors:
                needed.setdefault(name, set()).update(read(graph, x, name, own))
    return {name: set(range(min(rows), max(rows) + 1)) for name, rows in needed.items()}


def read(graph: Graph, x: Layer, name: str, rows: set[int]) -> set[int]:
    height = rows_of(graph, name)
    if x.op in WHOLE or (x.op == "Concat" and x.attr("axis") == 2):
        return set(range(height))
    if x.op not in {"Conv", "MaxPool", "AveragePool"}:
        return rows
    stride, dilation = x.attr("strides", (1, 1))[0], x.attr("dilations", (1, 1))[0]
    found = {
        r * stride - x.attr("pads", (0, 0, 0, 0))[0] + k * dilation
        for r in rows
        for k in range(x.attr("kernel_shape")[0])
    }
    return set(range(max(0, min(found)), min(height, max(found) + 1))) or {0 if max(found) < 0 else height - 1}


def check(graph: Graph, counts: Sequence[int] = COUNTS) -> None:
    bands = band_rows(graph, counts)
    height = min(rows_of(graph, o) for o in graph.outputs)
    for k, count in enumerate(counts):
        n = min(count, height)
        assert bands.bands[k] == n
        cuts = [
            {o: set(range(b * rows_of(graph, o) // n, (b + 1) * rows_of(graph, o) // n)) for o in graph.outputs}
            for b in range(n)
        ]
        needs = [marked(graph, cut) for cut in cuts]
        for i, x in enumerate(graph.layers):
            rows = [len(need[x.outputs[0]]) for need in needs]
            assert bands.tallest[i, k] == bands.busiest[i, k] == max(rows), (x.id, count)
            assert bands.ratio[i, k] == pytest.approx(max(1.0, sum(rows) / rows_of(graph, x.outputs[0]))), (x.id, count)
        for i, name in enumerate(graph.inputs):
            rows = [len(need[name]) for need in needs]
            assert bands.read[i, k] == pytest.approx(sum(rows) / rows_of(graph, name))
            assert bands.read_tallest[i, k] == max(rows)


def chain(*layers: tuple[str, dict[str, object]], height: int = 23) -> Graph:
    """Windowed layers on 1 x 4 x height x 9, one behind the other, with shapes as ONNX defines them."""
    made, shapes, source = [], {"x": (1, 4, height, 9)}, "x"
    for k, (op, attrs) in enumerate(layers):
        name = f"t{k}"
        made.append(layer(op, [source, "w"] if op == "Conv" else [source], name, **attrs))
        rows = shapes[source][2]
        if "kernel_shape" in attrs:
            x = made[-1]
            pads, reach = x.attr("pads", (0, 0, 0, 0)), x.attr("dilations", (1, 1))[0] * (x.attr("kernel_shape")[0] - 1)
            rows = (rows + pads[0] + pads[2] - reach - 1) // x.attr("strides", (1, 1))[0] + 1
        shapes[name], source = (1, 4, 1 if op == "GlobalAveragePool" else rows, 9), name
    return graph_of(made, [source], shapes=shapes, constants={"w": (4, 4, 3, 3)})


WINDOWS = [
    {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)},
    {"kernel_shape": (1, 1), "strides": (2, 2)},
    {"kernel_shape": (7, 7), "pads": (3, 3, 3, 3), "strides": (2, 2)},
    {"kernel_shape": (3, 3), "pads": (2, 2, 2, 2), "dilations": (2, 2)},
    {"kernel_shape": (2, 2), "strides": (2, 2)},
    {"kernel_shape": (3, 3), "pads": (0, 0, 1, 1), "strides": (2, 2)},
]


@pytest.mark.parametrize("attrs", WINDOWS)
@pytest.mark.parametrize("op", ["Conv", "MaxPool"])
def test_one_window(op: str, attrs: dict[str, object]) -> None:
    check(chain((op, attrs)))


@pytest.mark.parametrize("seed", range(20))
def test_chains_of_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picks = [("Conv", WINDOWS[int(rng.integers(len(WINDOWS)))]) for _ in range(4)]
    picks.insert(int(rng.integers(5)), ("Relu", {}))
    check(chain(*picks, height=97))


@pytest.mark.parametrize("seed", range(30))
def test_tangles_with_branches_and_several_outputs(seed: int) -> None:
    check(random_dag(seed)[0])


def test_what_a_layer_needs_whole_is_whole_in_every_band() -> None:
    same = WINDOWS[0]
    check(chain(("Conv", same), ("GlobalAveragePool", {})))
    stacked = graph_of(
        [layer("Relu", ["x"], "r"), layer("Concat", ["r", "x"], "y", axis=2)], ["y"], shapes={"y": (1, 32, 16, 8)}
    )
    check(stacked)
    bands = band_rows(stacked, 4)
    assert bands.ratio[0, 0] == 4


def test_one_convolution_repeats_its_inputs_halo_and_nothing_else() -> None:
    bands = band_rows(chain(("Conv", WINDOWS[0]), height=32), [1, 4])
    assert bands.ratio.tolist() == [[1, 1]]
    assert bands.read.tolist() == [[1, (9 + 10 + 10 + 9) / 32]]


def test_two_fused_convolutions_compute_the_first_ones_halo_again() -> None:
    bands = band_rows(residual(), [1, 4])
    by_layer = dict(zip(["START", "C1", "R1", "C2", "SUM", "OUT"], bands.ratio[:, 1], strict=True))
    assert by_layer["OUT"] == by_layer["SUM"] == by_layer["C2"] == 1
    assert by_layer["R1"] == by_layer["C1"] == (3 + 4 + 4 + 3) / 8
    assert by_layer["START"] == (4 + 6 + 6 + 4) / 8
    assert bands.ratio[:, 0].tolist() == [1] * 6


def test_deeper_blocks_and_more_bands_never_repeat_less() -> None:
    total = [
        band_rows(chain(*[("Conv", WINDOWS[0])] * d, height=64), range(1, 33)).ratio.sum(axis=0) for d in (1, 2, 4, 8)
    ]
    assert all((np.diff(t) >= 0).all() for t in total)
    assert all((b >= 2 * a).all() for a, b in pairwise(total))


@pytest.mark.parametrize("seed", range(10))
def test_groups_hold_neighbouring_bands(seed: int) -> None:
    graph = chain(*[("Conv", WINDOWS[(seed + k) % 4]) for k in range(2)], height=61)
    rows, groups, tiles = rows_of(graph, graph.outputs[0]), 3 + seed % 3, 1 + seed % 4
    n = min(rows, groups * tiles)
    found = Halo(graph).split(np.array([groups]), np.array([tiles]))
    first = [-(-g * n // groups) for g in range(groups + 1)]
    needs = [marked(graph, {graph.outputs[0]: set(range(b * rows // n, (b + 1) * rows // n))}) for b in range(n)]
    for i, x in enumerate(graph.layers):
        work = [sum(len(needs[b][x.outputs[0]]) for b in range(lo, hi)) for lo, hi in pairwise(first)]
        assert found.busiest[i, 0] == max(work)
    assert found.passes[0] == max(hi - lo for lo, hi in pairwise(first))
    assert (found.tallest[:, 0] == band_rows(graph, n).tallest[:, 0]).all()


@pytest.mark.parametrize("seed", range(10))
def test_an_inner_band_needs_the_most_rows(seed: int) -> None:
    graph = (
        random_dag(seed)[0] if seed % 2 else chain(*[("Conv", WINDOWS[(seed + k) % 4]) for k in range(3)], height=80)
    )
    halo = Halo(graph)
    counts = np.arange(1, halo.output_rows + 1)
    bands = halo.split(counts)
    layers, inputs = halo.inner(-(-halo.output_rows // counts))
    assert (layers >= bands.tallest).all() and (inputs >= bands.read_tallest).all()
    assert (layers <= halo.rows[:, None]).all()


def test_dense_layers_split_along_the_batch() -> None:
    gemm = graph_of(
        [layer("Gemm", ["x", "w"], "h"), layer("Relu", ["h"], "y")], ["y"], constants={"w": (10, 5)},
        shapes={"x": (8, 10), "h": (8, 5), "y": (8, 5)},
    )  # fmt: skip
    assert band_rows(gemm, [1, 4, 32]).bands.tolist() == [1, 4, 8]
    assert band_rows(gemm, [4]).ratio.tolist() == [[1], [1]]
    assert band_rows(gemm, [4]).read.tolist() == [[1]]
