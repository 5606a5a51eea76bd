"""8-bit integers: grids of images, weights by output channel, and which layers they are for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from plan_graphs import graph_of, layer

from tuner.errors import UserError
from tuner.plan import int8
from tuner.plan.bf16 import OPSET
from tuner.plan.layout import RANGE, Pack, derived, source_of
from tuner.plan.plan import Block, Plan
from tuner.plan.workload import workload_of
from tuner.precision import BF16, FP32, INT8
from tuner.search.lowering import check_plan, computation, precision_for

RNG = np.random.default_rng(0)
WEIGHTS = (RNG.standard_normal((24, 32, 3, 3)) * RNG.uniform(0.01, 5, (24, 1, 1, 1))).astype(np.float32)
ODD = [(0.0, 0.0), (-np.inf, 1.0), (np.nan, 1.0), (0.0, 3e38), (-3e38, 3e38), (0.0, 1e-45)]


@pytest.mark.parametrize("limits", [(-1.5, 3.0), (0.0, 6.0), (-4.0, 0.0), (2.0, 3.0), (-3.0, -2.0), (-1e-3, 1e4)])
def test_a_grid_reaches_from_the_lowest_to_the_highest_number_and_holds_zero(limits: tuple[float, float]) -> None:
    numbers = int8.grid(np.array(limits, np.float32))
    inverse, step, first, last = (float(v) for v in numbers)
    assert numbers.dtype == np.float32 and last - first == int8.CODES and first <= 0 <= last
    assert first == round(first) and inverse == pytest.approx(1 / step)
    image = np.linspace(*limits, 1001, dtype=np.float32)
    assert np.abs(int8.on_grid(image, numbers) - image).max() <= 1.001 * step
    assert int8.on_grid(np.zeros(1, np.float32), numbers)[0] == 0
    steps = int8.stepped(np.array([-1e30, 1e30, np.inf], np.float32), numbers)
    assert steps.tolist() == [first, last, last]


@pytest.mark.parametrize("limits", ODD)
def test_grids_of_odd_ranges_are_finite(limits: tuple[float, float]) -> None:
    assert np.isfinite(int8.grid(np.array(limits, np.float32))).all()


def test_steps_are_the_nearest_ties_to_even() -> None:
    numbers = int8.grid(np.array([0, 255], np.float32))
    assert int8.stepped(np.array([0.5, 1.5, 2.5, 2.51, 254.5], np.float32), numbers).tolist() == [0, 2, 2, 3, 254]


def test_weights_are_at_most_one_step_off_and_most_of_them_half_a_step() -> None:
    off = np.abs(int8.quantised(WEIGHTS) - WEIGHTS) / int8.scales(WEIGHTS).reshape(-1, 1, 1, 1)
    assert off.max() < 1 and (off > 0.5001).mean() < 0.15
    codes = int8.codes(WEIGHTS)
    assert codes.dtype == np.int8 and codes.min() >= -127
    assert (np.abs(codes.astype(int)).reshape(24, -1).max(axis=1) == 127).all()
    assert np.array_equal(int8.sums(WEIGHTS), codes.reshape(24, -1).sum(axis=1))
    assert int8.sums(WEIGHTS).dtype == np.int32


@pytest.mark.parametrize("shape", [(24, 32, 3, 3), (16, 300, 1, 1), (7, 3, 7, 7), (4, 1, 1, 1)])
def test_rounding_keeps_sums_of_weights_within_half_a_step(shape: tuple[int, ...]) -> None:
    weights = RNG.standard_normal(shape).astype(np.float32)
    off = (int8.quantised(weights).astype(np.float64) - weights) / int8.scales(weights).reshape(-1, 1, 1, 1)
    assert np.abs(off.sum(axis=(1, 2, 3))).max() <= 0.501
    nearest = np.rint(weights / int8.scales(weights).reshape(-1, 1, 1, 1))
    moved = nearest - weights / int8.scales(weights).reshape(-1, 1, 1, 1)
    assert np.prod(shape[1:]) < 30 or np.abs(moved.sum(axis=(1, 2, 3))).max() > 1  # the nearest ones would not


def test_positive_images_lose_less_by_sums_that_are_kept() -> None:
    """What SQuant is for: images behind a Relu have a mean."""
    weights = RNG.standard_normal((64, 512)).astype(np.float32)[:, :, None, None]
    images = np.maximum(RNG.standard_normal((512, 400)) + 1, 0)
    scale = int8.scales(weights)[:, None]
    plain, kept = weights[:, :, 0, 0], int8.quantised(weights)[:, :, 0, 0]
    nearest = np.rint(plain / scale) * scale
    assert np.abs((kept - plain) @ images).mean() < 0.75 * np.abs((nearest - plain) @ images).mean()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e-42])
def test_odd_weights_do_no_harm(value: float) -> None:
    weights = np.full((3, 2, 1, 1), value, np.float32)
    with np.errstate(invalid="ignore"):
        assert int8.codes(weights).dtype == np.int8
    assert not value or not np.isfinite(value) or np.abs(int8.quantised(weights)).max() <= 2.0**-100


def test_packs_of_integers_survive_json_and_pad_with_zero() -> None:
    pack = Pack((("int8",), ("pad", [[0, 8], [0, 0], [0, 0], [0, 0]]), ("reshape", [2, 16, 32, 9])))
    again = Pack.from_json(json.loads(json.dumps(pack.to_json())))(WEIGHTS)
    assert again.dtype == np.int8 and np.array_equal(again.reshape(32, 32, 3, 3)[:24], int8.codes(WEIGHTS))
    assert not again.reshape(32, 32, 3, 3)[24:].any()
    for step, made in (("int8-scales", int8.scales(WEIGHTS)), ("int8-sums", int8.sums(WEIGHTS))):
        assert np.array_equal(Pack(((step,),))(WEIGHTS), made)
    limits = np.array([-1, 2], np.float32)
    assert np.array_equal(Pack((("int8-grid",),))(limits), int8.grid(limits))


def test_what_a_kernels_constants_are_made_of() -> None:
    names = {"c0": "weights", "i0": "image"}
    assert source_of("c0", ["c0"], names) == source_of(derived("c0", "scales"), ["c0"], names) == "weights"
    assert source_of(derived("i0", "grid"), ["c0"], names) == derived("image", RANGE)
    assert source_of(derived("i0", "grid"), ["c0"]) == derived("i0", RANGE)


NET = replace(
    graph_of(
        [
            layer("Conv", ["x", "w"], "a", kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
            layer("Conv", ["a", "d"], "b", kernel_shape=(3, 3), pads=(1, 1, 1, 1), group=32),
            layer("Conv", ["b", "v"], "c", kernel_shape=(1, 1)),
            layer("Flatten", ["c"], "f"),
            layer("Gemm", ["f", "g"], "y"),
        ],
        ["y"],
        shapes={"f": (1, 2048), "y": (1, 100)},
        constants={"w": (32, 32, 3, 3), "d": (32, 1, 3, 3), "v": (32, 32, 1, 1), "g": (2048, 100)},
    ),
    opset=OPSET,
)


def test_convolutions_in_one_group_may_be_quantised() -> None:
    assert [x.id for x in int8.quantised_layers(NET)] == ["A", "C"]
    assert int8.quantised_layers(replace(NET, opset=OPSET - 1)) == []
    shapes = {"x": (1, 8192, 8, 8), "y": (1, 1, 6, 6)}
    long = graph_of([layer("Conv", ["x", "w"], "y")], ["y"], shapes=shapes, constants={"w": (1, 8192, 3, 3)})
    assert int8.quantised_layers(replace(long, opset=OPSET)) == []  # its sums may not fit into 32 bits


def test_blocks_that_have_to_be_exact_are_in_float32() -> None:
    first, third = (computation(NET, NET.by_id[i]) for i in ("A", "C"))
    block = workload_of(NET, ["A"]).workload
    assert precision_for(block, INT8, {first}) == FP32
    assert precision_for(block, INT8, {third}) == INT8


def test_plans_in_int8_need_that_precision() -> None:
    plan = Plan.sequential(NET.hash, [Block(("A",), 1, "conv2d_int8", None, {})], {})
    check_plan(plan, INT8)
    for precision in (FP32, BF16):
        with pytest.raises(UserError, match="8-bit integers") as refused:
            check_plan(plan, precision)
        assert refused.value.code == "bad-plan" and "--precision int8" in str(refused.value.hint)
