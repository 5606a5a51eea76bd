"""Which concatenations need no kernel, as the plan alone tells."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from plan_graphs import conv, graph_of, layer

from tuner.graph.ir import Graph
from tuner.plan.joins import Join, Part, free_blocks, joins, lies_free
from tuner.plan.plan import IMPORTED, Block, Plan

SHAPES = {"j": (1, 64, 8, 8)}


def plan_of(graph: Graph, layout: str = "NCHW16c", **templates: str) -> Plan:
    """Every layer a block, every tensor but the model's inputs in ``layout``."""
    blocks = [
        Block((x.id,), 1, templates.get(x.id, "concat" if x.op == "Concat" else "conv2d"), None,
              {n: layout for n in x.inputs if n in graph.inputs and layout != "plain"})
        for x in graph.layers
    ]  # fmt: skip
    made = {n: layout for n in graph.tensors if n not in graph.inputs and layout != "plain"}
    return Plan.sequential(graph.hash, blocks, made)


def joined(
    parts: tuple[str, ...] = ("a", "b"), outputs: tuple[str, ...] = ("y",), shapes: Mapping[str, tuple[int, ...]] = {}
) -> Graph:
    layers = [conv("x", "a"), conv("x", "b"), layer("Concat", parts, "j", axis=1), layer("Relu", ["j"], "y")]
    return graph_of(layers, outputs, shapes={**SHAPES, "y": (1, 64, 8, 8), **shapes}, constants={"w": (32, 32, 3, 3)})


@pytest.mark.parametrize("layout", ["NCHW16c", "NCHW8c", "plain"])
def test_parts_made_by_kernels_are_free(layout: str) -> None:
    graph = joined()
    plan = plan_of(graph, layout)
    assert joins(graph, plan) == {"J": Join((Part("a", False), Part("b", False)))}
    assert [b.layers for b in free_blocks(graph, plan)] == [("J",)]


def test_an_input_in_another_layout_is_converted_into_its_slice() -> None:
    graph = joined(("a", "x"))
    assert joins(graph, plan_of(graph))["J"].free
    assert joins(graph, plan_of(graph, "plain"))["J"].parts == (Part("a", False), Part("x", True))


def test_the_second_use_of_a_part_is_a_copy_and_too_many_copies_are_a_kernel() -> None:
    twice, thrice = joined(("a", "a")), joined(("a", "a", "a"), shapes={"j": (1, 96, 8, 8), "y": (1, 96, 8, 8)})
    assert joins(twice, plan_of(twice))["J"].parts == (Part("a", False), Part("a", True))
    assert not list(free_blocks(twice, plan_of(twice)))
    assert not joins(thrice, plan_of(thrice))


def test_a_concatenation_that_is_refused_leaves_its_parts_to_others() -> None:
    shapes = {"j": (1, 96, 8, 8), "k": (1, 64, 8, 8), "y": (1, 96, 8, 8)}
    layers = [
        conv("x", "a"), conv("x", "b"), layer("Concat", ("x", "x", "a"), "j", axis=1),
        layer("Concat", ("a", "b"), "k", axis=1), layer("Relu", ["j"], "y"),
    ]  # fmt: skip
    graph = graph_of(layers, ("y", "k"), shapes=shapes, constants={"w": (32, 32, 3, 3)})
    assert joins(graph, plan_of(graph, "plain")) == {"K": Join((Part("a", False), Part("b", False)))}


def dense(*joined: tuple[str, ...]) -> Graph:
    """Convolutions ``a`` to ``e`` of one tensor, and these concatenations j0, j1, ... of them, each a result."""
    layers = [*(conv("x", n) for n in "abcde"), *(layer("Concat", p, f"j{k}", axis=1) for k, p in enumerate(joined))]
    outputs = [f"y{k}" for k in range(len(joined))]
    layers += [layer("Relu", [f"j{k}"], n) for k, n in enumerate(outputs)]
    shapes = {f"{n}{k}": (1, 32 * len(p), 8, 8) for k, p in enumerate(joined) for n in "jy"}
    return graph_of(layers, outputs, shapes=shapes, constants={"w": (32, 32, 3, 3)})


@pytest.mark.parametrize(
    ("joined", "copies"),
    [
        (("ab", "abc", "abcd"), [0, 0, 0]),
        (("abcd", "ab", "bc"), [0, 0, 0]),
        (("bc", "abcd", "cd"), [0, 0, 0]),
        (("ab", "bc"), [0, 1]),
        (("ab", "abc", "abd"), [0, 0, None]),
        (("ab", "cd", "abcd"), [0, 0, None]),
        (("aab", "ab"), [1, None]),
    ],
)
def test_concatenations_share_parts_where_one_is_a_run_of_the_other(
    joined: tuple[str, ...], copies: list[int | None]
) -> None:
    graph = dense(*(tuple(parts) for parts in joined))
    found = joins(graph, plan_of(graph))
    assert [sum(p.copied for p in found[i].parts) if i in found else None
            for i in (f"J{k}" for k in range(len(joined)))] == copies  # fmt: skip


def test_what_is_free_whatever_else_is_chosen() -> None:
    for joined, free in ((("ab", "abc", "abcd"), [True] * 3), (("ab", "bc"), [False] * 2),
                         (("ab", "abc", "abd"), [False] * 3)):  # fmt: skip
        graph = dense(*(tuple(parts) for parts in joined))
        cats = [x for x in graph.layers if x.op == "Concat"]
        assert [lies_free(graph, x, "NCHW16c", graph.by_id) for x in cats] == free


def test_a_result_inside_another_is_not_made_longer() -> None:
    graph = dense(("a", "b"), ("j0", "c"), ("a", "b", "d"))
    graph = graph_of(graph.layers, graph.outputs, constants={"w": (32, 32, 3, 3)},
                     shapes={n: (1, 32 * k, 8, 8) for k, n in ((2, "j0"), (2, "y0"), (3, "j1"), (3, "y1"), (3, "j2"),
                                                               (3, "y2"))})  # fmt: skip
    found = joins(graph, plan_of(graph))
    assert found["J0"].free
    assert found["J1"].free
    assert "J2" not in found  # two of its three parts would have to be copied


def test_imported_parts_and_plain_results_are_copied() -> None:
    graph = joined()
    assert joins(graph, plan_of(graph, "plain", A=IMPORTED))["J"].parts[0].copied
    kept = joined(outputs=("y", "a"))
    assert joins(kept, plan_of(kept, "plain"))["J"].parts[0].copied
    assert joins(kept, plan_of(kept))["J"].free  # the user gets a plain one


@pytest.mark.parametrize(
    ("layout", "a", "b", "why"),
    [
        ("NCHW16c", (1, 24, 8, 8), (1, 40, 8, 8), "a block is left half full"),
        ("NCHW8c", (1, 8, 1, 1), (1, 56, 1, 1), "32 bytes are not aligned"),
        ("plain", (1, 32, 3, 3, 3), (1, 30, 3, 3, 3), None),
        ("plain", (2, 32, 8, 8), (2, 32, 8, 8), "the second image's part is elsewhere"),
        ("plain", (1, 3, 3, 3), (1, 61, 3, 3), "108 bytes are not aligned"),
        ("NCHW16c", (1, 32, 8, 8), (1, 5, 8, 8), None),
    ],
)
def test_where_the_parts_must_lie(layout: str, a: tuple[int, ...], b: tuple[int, ...], why: str | None) -> None:
    whole = (a[0], a[1] + b[1], *a[2:])
    graph = joined(shapes={"a": a, "b": b, "j": whole, "y": whole})
    assert bool(joins(graph, plan_of(graph, layout))) == (why is None)


def test_mixed_layouts_and_fused_blocks_have_a_kernel() -> None:
    graph = joined()
    plan = plan_of(graph)
    mixed = Plan(plan.graph, plan.stages, {n: v for n, v in plan.layouts.items() if n != "j"})
    assert not joins(graph, mixed)
    fused = [*list(plan.blocks)[:2], Block(("J", "Y"), 1, "concat")]
    assert not joins(graph, Plan.sequential(graph.hash, fused, plan.layouts))
