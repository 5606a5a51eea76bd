"""What templates must not accept, and spaces that must not exist."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_cases import DEVICES, Sketch, case_of, check

from tuner.errors import UserError
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.kernels.base import Space
from tuner.kernels.registry import TEMPLATES, serving, template
from tuner.plan.layout import PLAIN, blocked

MACHINE = DEVICES["v3"]
LAYOUTS = (PLAIN, "NCHW8c", "NCHW4c")


def workload(
    op: str,
    shapes: dict[str, tuple[int, ...]],
    out: tuple[int, ...],
    constants: dict[str, Constant] | None = None,
    dtype: str = "float32",
    outputs: tuple[str, ...] = ("t0",),
    **attrs: Any,
) -> Graph:
    """One layer over inputs of these shapes (then the constants)."""
    known = constants or {}
    tensors = {n: Tensor(n, s, dtype) for n, s in shapes.items()} | {o: Tensor(o, out, dtype) for o in outputs if o}
    layer = Layer("l0", op, (*shapes, *known), outputs, freeze_attrs(attrs))
    return Graph(tuple(shapes), tuple(o for o in outputs if o), (layer,), tensors, known, 20)


def weight(*shape: int) -> dict[str, Constant]:
    return {"c0": Constant("c0", shape)}


IMAGE = {"i0": (1, 16, 8, 8)}
REFUSED = {
    "convolution of a sequence": workload("Conv", {"i0": (1, 16, 8)}, (1, 8, 6), weight(8, 16, 3), kernel_shape=(3,)),
    "convolution of a volume": workload(
        "Conv", {"i0": (1, 4, 5, 5, 5)}, (1, 8, 3, 3, 3), weight(8, 4, 3, 3, 3), kernel_shape=(3, 3, 3)
    ),
    "convolution with computed weights": workload("Conv", IMAGE | {"i1": (8, 16, 1, 1)}, (1, 8, 8, 8)),
    "pooling of a sequence": workload("MaxPool", {"i0": (1, 16, 8)}, (1, 16, 7), kernel_shape=(2,)),
    "pooling of a volume": workload("AveragePool", {"i0": (1, 8, 4, 4, 4)}, (1, 8, 3, 3, 3), kernel_shape=(2, 2, 2)),
    "pooling with indices": workload("MaxPool", IMAGE, (1, 16, 7, 7), outputs=("t0", "t1"), kernel_shape=(2, 2)),
    "pooling in column order": workload("MaxPool", IMAGE, (1, 16, 7, 7), kernel_shape=(2, 2), storage_order=1),
    "mean over channels": workload("ReduceMean", IMAGE, (1, 1, 8, 8), axes=(1,), keepdims=1),
    "mean that drops its dimensions": workload("ReduceMean", IMAGE, (1, 16), axes=(2, 3), keepdims=0),
    "mean over everything": workload("ReduceMean", IMAGE, (1, 1, 1, 1)),
    "doubles": workload("Relu", {"i0": (4, 8)}, (4, 8), dtype="float64"),
    "integers": workload("Add", {"i0": (4, 8), "i1": (4, 8)}, (4, 8), dtype="int64"),
    "half precision": workload("Conv", IMAGE, (1, 8, 8, 8), {"c0": Constant("c0", (8, 16, 1, 1), "float16")},
                               dtype="float16", kernel_shape=(1, 1)),
    "transposed left operand": workload("Gemm", {"i0": (8, 4)}, (4, 6), weight(8, 6), transA=1),
    "product with rank 3 weights": workload("MatMul", {"i0": (2, 4, 8)}, (2, 4, 6), weight(2, 8, 6)),
    "softmax across rows": workload("Softmax", IMAGE, (1, 16, 8, 8), axis=1),
    "layer normalisation that also gives its mean": workload(
        "LayerNormalization", {"i0": (4, 8)}, (4, 8), weight(8), outputs=("t0", "t1"), axis=-1
    ),
    "layer normalisation by computed numbers": workload("LayerNormalization", {"i0": (4, 8), "i1": (8,)}, (4, 8)),
    "integers gathered": workload("Gather", {"i0": (4,), "i1": (2,)}, (2,), dtype="int64", axis=0),
    "transposed integers": workload("Transpose", {"i0": (4, 8)}, (8, 4), dtype="int64", perm=(1, 0)),
    "product whose batches are broadcast": workload("MatMul", {"i0": (2, 4, 8), "i1": (1, 8, 6)}, (2, 4, 6)),
    "an operator of another kind": workload("Sin", {"i0": (4, 8)}, (4, 8)),
    "a split": workload("Split", {"i0": (4, 8)}, (2, 8), outputs=("t0", "t1"), axis=0),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("what", REFUSED)
def test_no_template_takes_what_it_cannot_do(what: str, layout: str) -> None:
    graph = REFUSED[what]
    layouts = {n: layout if len(graph.tensors[n].shape) == 4 else PLAIN for n in (*graph.inputs, *graph.outputs)}
    assert [t.name for t in TEMPLATES if t.accepts(graph, layouts, MACHINE)] == []


def test_shuffle_with_another_order_of_axes_is_refused() -> None:
    s = Sketch(np.random.default_rng(0))
    split = s.add("Reshape", s.input(1, 8, 4, 4), s.literal([1, 2, 4, 4, 4]))
    s.add("Reshape", s.add("Transpose", split, perm=(0, 1, 2, 4, 3)), s.literal([1, 8, 4, 4]))
    case = case_of(s, lambda *_: blocked(8))
    assert list(serving(case.workload, case.layouts, MACHINE)) == []


def test_blocks_of_another_size_are_no_output_of_anchored_templates() -> None:
    s = Sketch(np.random.default_rng(0))
    s.add("Conv", s.input(1, 16, 5, 5), s.weight(16, 16, 1, 1))
    case = case_of(s, lambda _, __, output: blocked(4) if output else PLAIN)
    assert list(serving(case.workload, case.layouts, MACHINE)) == []


def test_a_convolution_reads_blocks_of_another_size() -> None:
    s = Sketch(np.random.default_rng(0))
    s.add("Conv", s.input(1, 17, 5, 5), s.weight(16, 17, 3, 3, scale=0.1), pads=(1, 1, 1, 1))
    case = case_of(s, lambda _, __, output: blocked(8) if output else blocked(4))
    check(template("conv2d"), case, MACHINE)


def test_a_product_whose_left_operand_lies_in_columns_is_refused() -> None:
    s = Sketch(np.random.default_rng(0))
    s.add("MatMul", s.add("Transpose", s.input(8, 4), perm=(1, 0)), s.input(8, 6))
    case = case_of(s, lambda *_: PLAIN)
    assert list(serving(case.workload, case.layouts, MACHINE)) == []


def test_a_convolution_behind_a_relu_is_refused() -> None:
    s = Sketch(np.random.default_rng(0))
    s.add("Conv", s.add("Relu", s.input(1, 16, 5, 5)), s.weight(16, 16, 1, 1))
    case = case_of(s, lambda *_: blocked(8))
    assert not template("conv2d").accepts(case.workload, case.layouts, MACHINE)


def test_a_block_with_two_outputs_is_refused() -> None:
    s = Sketch(np.random.default_rng(0))
    s.add("Relu", s.add("Conv", s.input(1, 16, 5, 5), s.weight(16, 16, 1, 1)))
    case = case_of(s, lambda *_: blocked(8))
    both = replace(case.workload, outputs=("t0", "t1"))
    assert list(serving(both, {**case.layouts, "t0": blocked(8)}, MACHINE)) == []


@pytest.mark.parametrize("op", ["Div", "Reciprocal", "Sqrt"])
def test_padded_lanes_stay_finite_where_an_operator_is_not_defined_at_zero(op: str) -> None:
    s = Sketch(np.random.default_rng(0))
    x, y = s.input(1, 3, 4, 4, away_from_zero=True), s.input(1, 3, 4, 4, away_from_zero=True)
    s.add(op, *((x, y) if op == "Div" else (s.add("Neg", s.add("Neg", x)),)))
    for garbage_seed in range(4):
        case = replace(case_of(s, lambda *_: blocked(8)), rng=np.random.default_rng(garbage_seed))
        check(template("elementwise"), case, MACHINE, extra=0)


def test_every_core_count_builds_on_a_machine_with_many() -> None:
    """Chunks that cut through an inner loop used to be refused by TVM."""
    machine = replace(MACHINE, cores=6)
    s = Sketch(np.random.default_rng(0))
    s.add("Conv", s.input(2, 24, 5, 5), s.weight(48, 24, 3, 3, scale=0.1), pads=(1, 1, 1, 1))
    case = case_of(s, lambda *_: blocked(8))
    maker = template("conv2d")
    space = maker.space(case.workload, case.layouts, machine)
    for cores in range(1, 7):
        for knobs in ({**space.default, "order": 0}, {**space.default, "order": 1}):
            maker.build(case.workload, case.layouts, knobs, cores, machine)


def test_a_default_outside_its_space_is_a_defect_seen_at_once() -> None:
    with pytest.raises(ValueError, match="outside the space"):
        Space({"a": [1, 2]}, {"a": 3})
    with pytest.raises(ValueError, match="outside the space"):
        Space({"a": [1, 2]}, {"a": 2}, lambda p: p["a"] < 2)


def test_points_keep_their_order_and_obey_the_rule() -> None:
    space = Space({"a": [2, 1], "b": [3, 4]}, {"a": 1, "b": 3}, lambda p: p["a"] * p["b"] < 8)
    assert space.points == ({"a": 2, "b": 3}, {"a": 1, "b": 3}, {"a": 1, "b": 4})
    assert space.bound == 4
    assert {"b": 4, "a": 1} in space
    assert {"a": 2, "b": 4} not in space


def test_an_unknown_template_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError) as caught:
        template("magic")
    assert caught.value.code == "unknown-template"
    assert "conv2d" in caught.value.hint


@pytest.mark.parametrize("op", ["conv", "pool", "depthwise", "conv_chain"])
def test_one_channel_with_a_layer_behind_it(op: str) -> None:
    s = Sketch(np.random.default_rng(0))
    image = s.input(1, 1 if op in {"pool", "depthwise"} else 16, 8, 8)
    if op == "pool":
        name = s.add("MaxPool", image, kernel_shape=(2, 2))
    else:
        name = s.add("Conv", image, s.weight(1, s.shape(image)[1], 3, 3), pads=(1, 1, 1, 1))
    name = s.add("Sigmoid", name)
    if op == "conv_chain":
        name = s.add("Relu", s.add("Conv", name, s.weight(1, 1, 3, 3)))
    case = case_of(s, lambda *_: blocked(8))
    check(next(serving(case.workload, case.layouts, MACHINE)), case, MACHINE, extra=0)
