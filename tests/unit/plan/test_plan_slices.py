"""Which Slices need no kernel, and concatenations that overlap with what they are slices of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from plan_graphs import conv, graph_of, layer
from test_plan_joins import plan_of

from tuner.graph.ir import Constant, Graph, Layer, Tensor
from tuner.plan.joins import joins
from tuner.plan.plan import IMPORTED, VIEW
from tuner.plan.slices import Cut, cut_of, offset_of

Bounds = Sequence[Sequence[int] | None]


def cut(shape: tuple[int, ...], *bounds: Sequence[int] | None) -> tuple[Graph, Layer]:
    """A Slice of ``x`` with these starts, ends, axes and steps; None = not known."""
    constants = {f"c{k}": Constant(f"c{k}", (len(b or (0,)),), "int64", "", None if b is None else tuple(b))
                 for k, b in enumerate(bounds)}  # fmt: skip
    made = layer("Slice", ["x", *constants], "y")
    return Graph(("x",), ("y",), (made,), {n: Tensor(n, shape) for n in "xy"}, constants), made


@pytest.mark.parametrize(
    ("bounds", "found"),
    [
        (([16], [32], [1]), Cut(1, 16, 32)),
        (([-16], [1 << 40], [-3]), Cut(1, 48, 64)),
        (([0, 16], [1, 32], [0, 1], [1, 1]), Cut(1, 16, 32)),
        (([0, 16], [1, 32]), Cut(1, 16, 32)),
        (([0], [64], [1]), None),
        (([16], [32], [1], [2]), Cut(1, 16, 32, 2)),
        (([0], [64], [1], [3]), Cut(1, 0, 64, 3)),
        (([32], [16], [1], [-1]), None),
        (([16, 2], [32, 4], [1, 2]), None),
        (([16], None, [1]), None),
        (([16], [32], None), None),
        (([32], [16], [1]), None),
    ],
)
def test_what_is_cut(bounds: Bounds, found: Cut | None) -> None:
    assert cut_of(*cut((1, 64, 8, 8), *bounds)) == found


@pytest.mark.parametrize(
    ("shape", "bounds", "layout", "offset"),
    [
        ((1, 64, 8, 8), ([16], [32], [1]), "NCHW16c", 16 * 64 * 4),
        ((1, 64, 8, 8), ([16], [32], [1]), "plain", 16 * 64 * 4),
        ((1, 64, 8, 8), ([16], [17], [1]), "NCHW16c", 16 * 64 * 4),
        ((1, 64, 8, 8), ([8], [32], [1]), "NCHW16c", None),
        ((1, 64, 8, 8), ([8], [32], [1]), "NCHW8c", 8 * 64 * 4),
        ((1, 64, 3, 3), ([1], [32], [1]), "plain", None),
        ((2, 64, 8, 8), ([16], [32], [1]), "plain", None),
        ((2, 64, 8, 8), ([1], [2], [0]), "plain", 64 * 64 * 4),
        ((4, 20, 8, 8), ([1], [3], [0]), "NCHW16c", 32 * 64 * 4),
        ((4, 20, 8, 8), ([1], [3], [0]), "plain", 20 * 64 * 4),
        ((1, 64, 8, 8), ([2], [4], [2]), "NCHW16c", None),
        ((1, 64, 8, 8), ([0], [64], [1], [2]), "plain", None),
        ((1, 1, 8, 8), ([2], [4], [2]), "plain", 64),
    ],
)
def test_where_it_lies(shape: tuple[int, ...], bounds: Bounds, layout: str, offset: int | None) -> None:
    assert offset_of(*cut(shape, *bounds), layout) == offset


def wide(parts: Sequence[str], ranges: dict[str, tuple[int, int]], outputs: Sequence[str] = ("y",)) -> Graph:
    """A convolution of 96 channels, slices of it, and their concatenation with others."""
    made = [conv("x", "whole", "v"), conv("x", "q")]
    sizes, constants = {"whole": 96, "q": 32}, {"axis": (1,)}
    for name, (start, stop) in ranges.items():
        made.append(layer("Slice", ["whole", f"s{start}", f"s{stop}", "axis"], name))
        sizes[name] = stop - start
        constants |= {f"s{start}": (start,), f"s{stop}": (stop,)}
    made += [layer("Concat", parts, "j", axis=1), layer("Relu", ["j"], "y")]
    sizes["j"] = sizes["y"] = sum(sizes[p] for p in parts)
    graph = graph_of(made, outputs, shapes={n: (1, c, 8, 8) for n, c in sizes.items()},
                     constants={"w": (32, 32, 3, 3), "v": (96, 32, 3, 3)})  # fmt: skip
    known = {n: Constant(n, (1,), "int64", "", v) for n, v in constants.items()}
    return Graph(graph.inputs, graph.outputs, graph.layers, graph.tensors, {**graph.constants, **known})


def copied(graph: Graph, layout: str = "NCHW16c", **templates: str) -> list[bool] | None:
    views = {x.id: VIEW for x in graph.layers if x.op == "Slice"}
    found = joins(graph, plan_of(graph, layout, **{**views, **templates}))
    return [p.copied for p in found["J"].parts] if found else None


@pytest.mark.parametrize("layout", ["NCHW16c", "plain"])
@pytest.mark.parametrize(
    ("parts", "ranges", "expected"),
    [
        (("a", "q"), {"a": (64, 96)}, [False, False]),
        (("q", "a"), {"a": (0, 32)}, [False, False]),
        (("a", "b", "q"), {"a": (32, 64), "b": (64, 96)}, [False, False, False]),
        (("q", "a", "b"), {"a": (0, 32), "b": (32, 64)}, [False, False, False]),
        (("a", "q"), {"a": (32, 64)}, [True, False]),
        (("q", "a"), {"a": (64, 96)}, [False, True]),
        (("b", "a", "q"), {"a": (32, 64), "b": (64, 96)}, [False, True, False]),
        (("a", "q", "a"), {"a": (64, 96)}, None),
    ],
)
def test_slices_at_the_ends_of_a_concatenation_are_not_copied(
    layout: str, parts: Sequence[str], ranges: dict[str, tuple[int, int]], expected: list[bool] | None
) -> None:
    assert copied(wide(parts, ranges), layout) == expected


def test_what_cannot_be_written_anywhere_is_copied() -> None:
    graph = wide(("a", "q"), {"a": (64, 96)})
    assert copied(graph, WHOLE=IMPORTED) == [True, False]
    assert copied(graph, A="slice") == [False, False]  # a kernel of its own, which writes into its place
    assert copied(wide(("a", "q"), {"a": (64, 96)}, ["y", "a"])) == [True, False]
