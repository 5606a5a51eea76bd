"""bfloat16 in 16 bits: rounding, packing, and which weights it is for."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from plan_graphs import graph_of, layer

from tuner.errors import UserError
from tuner.plan.bf16 import STEP, rounded, stored, weight_names, widened
from tuner.plan.layout import Pack
from tuner.plan.plan import Block, Plan
from tuner.plan.workload import workload_of
from tuner.precision import BF16, FP32
from tuner.search.lowering import check_plan, computation, precision_for, streams

SPECIAL = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 3.4e38, -3.4e38, np.inf, -np.inf, 1e-40, -1e-45, 1.1754944e-38]


def test_rounding_is_to_the_nearest_ties_to_even() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(1 << 12, dtype=np.uint32) << 20) | np.uint32(0x8000)
    numbers = np.concatenate([np.array(SPECIAL, np.float32), bits.view(np.float32), ties.view(np.float32)])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = numbers.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(rounded(numbers), expected, equal_nan=True)
    assert np.isnan(rounded(np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32))).all()


def test_rounding_moves_no_normal_number_by_more_than_its_step() -> None:
    numbers = np.random.default_rng(1).standard_normal(10_000, np.float32)
    moved = np.abs(rounded(numbers) - numbers) / np.abs(numbers)
    assert STEP / 2 < moved.max() <= STEP
    assert np.array_equal(rounded(rounded(numbers)), rounded(numbers))


def test_long_arrays_of_any_shape_are_rounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.plan.bf16._SLICE", 7)
    array = np.random.default_rng(2).standard_normal((5, 3, 2), np.float32)
    assert np.array_equal(widened(stored(array.transpose(2, 0, 1))), rounded(array).transpose(2, 0, 1))
    assert stored(array).dtype == np.uint16


def test_a_pack_that_rounds_survives_json() -> None:
    pack = Pack((("transpose", [1, 0]), ("bf16",)))
    array = np.random.default_rng(3).standard_normal((4, 6), np.float32)
    again = Pack.from_json(json.loads(json.dumps(pack.to_json())))
    assert np.array_equal(again(array), stored(array.T))


NET = graph_of(
    [
        layer("Conv", ["x", "w"], "a", kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
        layer("Conv", ["a", "d"], "b", kernel_shape=(3, 3), pads=(1, 1, 1, 1), group=32),
        layer("Conv", ["b", "v"], "c", kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
        layer("Flatten", ["c"], "f"),
        layer("Gemm", ["f", "g"], "y"),
    ],
    ["y"],
    shapes={"f": (1, 2048), "y": (1, 100)},
    constants={"w": (32, 32, 3, 3), "d": (32, 1, 3, 3), "v": (32, 32, 3, 3), "g": (2048, 100)},
)


def test_weights_of_dense_layers_and_convolutions_that_are_not_depthwise_may_be_rounded() -> None:
    assert weight_names(NET) == ["w", "v", "g"]


def test_a_computation_is_the_same_in_a_model_and_in_a_block() -> None:
    first, third = (computation(NET, NET.by_id[i]) for i in ("A", "C"))
    assert first == third != computation(NET, NET.by_id["Y"])
    block = workload_of(NET, ["B", "C"]).workload
    assert computation(block, block.layers[1]) == third
    assert precision_for(block, BF16, {third}) == FP32
    assert precision_for(block, BF16, {computation(NET, NET.by_id["Y"])}) == BF16
    assert precision_for(block, FP32, {third}) == FP32


def test_layers_of_few_results_are_bound_by_their_weights() -> None:
    assert streams(workload_of(NET, ["Y"]).workload)
    assert not streams(workload_of(NET, ["A"]).workload)
    assert not streams(workload_of(NET, ["B"]).workload)


def test_a_plan_in_another_precision_is_refused() -> None:
    plan = Plan.sequential(NET.hash, [Block(("A",), 1, "conv2d_bf16", None, {})], {})
    check_plan(plan, BF16)
    with pytest.raises(UserError, match="bf16") as caught:
        check_plan(plan, FP32)
    for of_gpus in ("fp16", "tf32"):
        with pytest.raises(UserError, match=of_gpus):
            check_plan(plan, of_gpus)
    assert caught.value.code == "bad-plan" and "--precision bf16" in caught.value.hint
