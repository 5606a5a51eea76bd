"""Images in bfloat16: who may read them, how they lie, and which plans have them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plan_graphs import DEVICE, WEIGHTS, conv, graph_of, layer, residual

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.plan.bf16 import rounded, stored
from tuner.plan.layout import (
    PLAIN,
    Images,
    block_of,
    blocked,
    is_narrow,
    physical_shape,
    stored_type,
    to_logical,
    to_physical,
)
from tuner.plan.layout import widened as widened_layout
from tuner.plan.legality import validate
from tuner.plan.narrow import image_operands, narrow_tensors
from tuner.plan.plan import Plan
from tuner.precision import BF16, FP32
from tuner.search.fusion import greedy
from tuner.search.lowering import check_plan, widened
from tuner.search.served import Served

NARROW = blocked(DEVICE.lanes, narrow=True)


def pooled() -> Graph:
    """A convolution whose result a MaxPool reads, whose result two layers read."""
    return graph_of(
        [conv("x", "a"), layer("MaxPool", ["a"], "m", kernel_shape=(1, 1)), conv("m", "b"), conv("b", "c"),
         layer("Add", ["c", "m"], "y")],
        ["y"],
        constants=WEIGHTS,
    )  # fmt: skip


def test_a_narrow_layout_is_the_same_place_in_half_the_bytes() -> None:
    array = np.random.default_rng(0).standard_normal((2, 19, 3, 5), np.float32)
    wide, narrow = blocked(16), blocked(16, narrow=True)
    assert narrow == "NCHW16c-bf16" and widened_layout(narrow) == wide == widened_layout(wide)
    assert is_narrow(narrow) and not is_narrow(wide) and not is_narrow(PLAIN)
    assert block_of(narrow) == 16 and stored_type("float32", narrow) == "uint16"
    held = to_physical(array, narrow)
    assert held.dtype == np.uint16 and held.shape == physical_shape(array.shape, narrow)
    assert np.array_equal(held, stored(to_physical(array, wide)))
    assert np.array_equal(to_logical(held, narrow, array.shape), rounded(array))
    for unknown in ("NCHW16c-fp16", "plain-bf16", "-bf16"):
        with pytest.raises(UserError, match="bf16"):
            block_of(unknown)


def test_layers_that_select_pass_the_question_on_and_others_answer_it() -> None:
    graph = pooled()
    assert image_operands(graph) == {"B": (0,), "C": (0,), "Y": (0, 1)}  # the model's own input is not an image
    every = {"B": (0,), "C": (0,), "Y": (0, 1)}
    assert narrow_tensors(graph, every) == {"a", "m", "b", "c"}
    assert narrow_tensors(graph, {"B": (0,), "C": (0,)}) == {"b"}  # the Add sees m and c as they are
    assert narrow_tensors(graph, {"C": (0,), "Y": (0,)}) == {"b", "c"}
    assert narrow_tensors(graph, {}) == frozenset()


def test_what_the_user_gets_is_never_rounded() -> None:
    graph = graph_of([conv("x", "a"), conv("a", "b")], ["a", "b"], constants=WEIGHTS)
    assert narrow_tensors(graph, {"B": (0,)}) == frozenset()


def test_a_plan_stores_what_it_is_told_to_and_reads_it_so() -> None:
    graph = residual()
    names = narrow_tensors(graph, image_operands(graph))
    plan = greedy(graph, DEVICE, 2, names)
    validate(plan, graph, 2)
    wide = greedy(graph, DEVICE, 2)
    assert {n for n, v in plan.layouts.items() if v == NARROW} == {n for n in wide.layouts if n in names} != set()
    assert widened(plan) == wide and Plan.from_json(plan.to_json()) == plan
    assert [b.template for b in plan.blocks] == [b.template for b in wide.blocks]


def test_every_block_of_the_space_reads_a_tensor_as_it_is_stored_or_plain() -> None:
    graph = pooled()
    names = frozenset({"m", "b"})
    images = Images(DEVICE.lanes, names)
    for rules, lying in ((Served(DEVICE, names), images), (Served(DEVICE), Images(DEVICE.lanes))):
        for x in graph.layers:
            for variant in rules.variants(graph, (x.id,)):
                for name, layout in {**variant.reads, **variant.writes}.items():
                    assert layout in {PLAIN, lying.layout(name)}
    stored_so = [v.writes["m"] for v in Served(DEVICE, names).variants(graph, ("M",))]
    assert NARROW in stored_so


def test_plans_with_narrow_images_are_for_jobs_in_bf16() -> None:
    graph = residual()
    plan = replace(greedy(graph, DEVICE, 2), layouts={"a": NARROW})
    check_plan(plan, BF16)
    with pytest.raises(UserError, match="'a' as bfloat16") as caught:
        check_plan(plan, FP32)
    assert caught.value.code == "bad-plan" and "--precision bf16" in caught.value.hint
    read = greedy(graph, DEVICE, 2).map(lambda block: replace(block, reads={"x": NARROW}))
    with pytest.raises(UserError, match="'x' as bfloat16"):
        check_plan(read, FP32)
    check_plan(widened(read), FP32)
