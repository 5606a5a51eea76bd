"""Winograd's algorithm: its matrices, and which convolutions it takes."""

from __future__ import annotations

import kernel_reference as reference
import numpy as np
import pytest
import tvm
from kernel_cases import DEVICES, Sketch, call, case_of, check, physical_inputs

from tuner.kernels.registry import template
from tuner.kernels.winograd import SIZES
from tuner.plan.layout import blocked, to_logical
from tuner.plan.winograd import matrices, transform_weights

MACHINE = DEVICES["v3"]  # 8 lanes
MAKER = template("winograd")
# (m, r, stride) -> most that results differ from float64's where they have a standard deviation of 1
SERVED = {(2, 3, 1): 3e-6, (4, 3, 1): 5e-5, (4, 5, 1): 6e-5, (2, 3, 2): 3e-6}


def accepted(ic: int, oc: int, h: int = 8, w: int = 8, kernel: int = 3, **attrs: object) -> bool:
    s = Sketch(np.random.default_rng(0))
    groups = int(str(attrs.get("group", 1)))
    weights = s.weight(oc, ic // groups, kernel, kernel, scale=0.1)
    s.add("Conv", s.input(1, ic, h, w), weights, **attrs)
    case = case_of(s, lambda *_: blocked(MACHINE.lanes))
    found = MAKER.accepts(case.workload, case.layouts, MACHINE)
    if found:  # then there is a space, too
        MAKER.space(case.workload, case.layouts, MACHINE)
    return found


@pytest.mark.parametrize(("m", "r", "stride"), [*SERVED, (3, 3, 2), (4, 5, 2), (6, 3, 1), (1, 3, 1)])
def test_the_transforms_make_a_convolution(m: int, r: int, stride: int) -> None:
    rng, w, side = np.random.default_rng(0), matrices(m, r, stride), (m - 1) * stride + r
    a_t, b_t = np.array(w.a_t), np.array(w.b_t)
    image, kernel = rng.standard_normal((side, side)), rng.standard_normal((1, 1, r, r))
    found = a_t @ (transform_weights(kernel, m, stride)[0, 0] * (b_t @ image @ b_t.T)) @ a_t.T
    windows = np.lib.stride_tricks.sliding_window_view(image, (r, r))[::stride, ::stride]
    np.testing.assert_allclose(found, np.einsum("yxij,ij->yx", windows, kernel[0, 0]), rtol=0, atol=1e-12)


def test_the_matrices_of_small_transforms_are_those_of_lavin_and_gray() -> None:
    small = matrices(2, 3)
    assert small.a_t == ((1, 1, 1, 0), (0, 1, -1, -1))
    assert small.b_t == ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
    assert small.g == ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
    assert matrices(4, 3).b_t[:2] == ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0))
    assert matrices(4, 3).g[3] == (1 / 24, 1 / 12, 1 / 6)
    assert matrices(4, 3).a_t[3] == (0, 1, -1, 8, -8, 1)


def test_the_tiles_that_are_offered_are_those_tested_here() -> None:
    assert {(m, r, stride) for (r, stride), sides in SIZES.items() for m in sides} == SERVED.keys()


@pytest.mark.parametrize(("m", "r", "stride"), SERVED)
def test_rounding_errors_are_bounded(m: int, r: int, stride: int) -> None:
    s, ic, size = Sketch(np.random.default_rng(0)), 256, 24
    weights = s.weight(8, ic, r, r, scale=(ic * r * r) ** -0.5)
    s.add("Conv", s.input(1, ic, size, size), weights, strides=(stride, stride))
    case = case_of(s, lambda *_: blocked(MACHINE.lanes))
    space = MAKER.space(case.workload, case.layouts, MACHINE)
    kernel = MAKER.build(case.workload, case.layouts, next(p for p in space.points if p["m"] == m), 1, MACHINE)
    with tvm.target.Target(MACHINE.target()) as target:
        function = tvm.compile(kernel.schedule.mod, target=target)["main"]
    held = call(kernel, function, case, physical_inputs(case))
    expected = reference.run(case.workload, case.values, {})
    assert 0.9 < expected.std() < 1.1
    got = to_logical(held, case.layouts[case.workload.outputs[0]], expected.shape)
    assert SERVED[m, r, stride] / 20 < np.abs(got - expected).max() < SERVED[m, r, stride]


def test_it_takes_groups_of_whole_blocks_of_channels() -> None:
    assert accepted(16, 16, group=2)
    assert accepted(24, 48, group=3)
    assert not accepted(24, 16, group=2)  # 12 channels in
    assert not accepted(16, 24, group=2)  # 12 channels out
    assert not accepted(8, 8, group=2)
    assert accepted(12, 9)  # without groups, the last block may be part of one
    assert accepted(16, 16, 9, 9, kernel=5, group=2)


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": (3, 3)},
        {"strides": (1, 2)},
        {"dilations": (2, 2)},
        {"kernel": 2},
        {"kernel": 4},
        {"kernel": 5, "strides": (2, 2)},
    ],
)
def test_it_refuses_what_has_no_such_tiles(attrs: dict[str, int]) -> None:
    assert not accepted(16, 16, **attrs)  # type: ignore[arg-type]


def test_it_refuses_images_with_fewer_tiles_than_a_block_has_or_too_much_waste() -> None:
    assert [h for h in range(3, 9) if accepted(16, 16, h, h)] == [5, 6, 7, 8]  # two tiles down and across
    assert accepted(16, 16, 4, 10)  # four in a row
    assert not accepted(16, 16, 4, 8)
    assert not accepted(16, 16, 3, 10)  # half of each tile
    assert [h for h in range(13, 19) if accepted(16, 16, h, h, strides=(2, 2))] == [13, 14, 17, 18]
    assert [h for h in range(7, 12) if accepted(16, 16, h, h, kernel=5)] == [9, 10, 11]


def test_tasks_read_the_channels_of_their_group() -> None:
    """More groups than cores, two tasks a group, whichever way tasks are cut."""
    s = Sketch(np.random.default_rng(0))
    weights = s.weight(96, 16, 3, 3, scale=0.1)
    s.add("Conv", s.input(1, 48, 8, 8), weights, pads=(1, 1, 1, 1), group=3)
    case = case_of(s, lambda *_: blocked(MACHINE.lanes))
    check(MAKER, case, MACHINE, extra=6)
