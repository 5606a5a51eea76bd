"""Two convolutions in one kernel: borders, bands that do not divide the image, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import tvm
from kernel_cases import DEVICES, Case, Sketch, call, case_of, physical_inputs, runs_here
from kernel_reference import run
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace

from tuner.kernels.conv_chain import ConvChain
from tuner.kernels.conv_chain_shape import ChainShape, pair_of
from tuner.kernels.registry import serving
from tuner.plan.layout import blocked, to_logical

MACHINE = [machine for name, machine in DEVICES.items() if runs_here(machine)][-1]
LAYOUT = blocked(MACHINE.lanes)
CONV_CHAIN = ConvChain()


def bordered(height: int = 13, bias: float = 100.0) -> Case:
    """1x1 to 3x3 with padding: a large bias makes rows and columns outside the image count if they were computed."""
    s = Sketch(np.random.default_rng(5))
    middle = s.add("Conv", s.input(1, 16, height, 9), s.weight(24, 16, 1, 1), s.weight(24, scale=bias))
    weights = s.weight(32, 24, 3, 3, scale=0.1)
    last = s.add("Conv", s.add("Sigmoid", middle), weights, pads=(1, 1, 1, 1))
    s.add("Add", last, s.input(1, 32, height, 9))
    return case_of(s, lambda *_: LAYOUT)


@pytest.mark.parametrize("rows", [1, 4])
def test_rows_and_columns_outside_the_image_are_zeros_whatever_the_band(rows: int) -> None:
    case = bordered()
    space = CONV_CHAIN.space(case.workload, case.layouts, MACHINE)
    knobs = {**space.default, "rows": rows, "reg_a": 1, "reg_b": 1}
    kernel = CONV_CHAIN.build(case.workload, case.layouts, knobs, 3, MACHINE)
    library = tvm.compile(kernel.schedule.mod, target=tvm.target.Target(MACHINE.target()))
    held = call(kernel, library["main"], case, physical_inputs(case))
    expected = run(case.workload, case.values)
    np.testing.assert_allclose(to_logical(held, LAYOUT, expected.shape), expected, atol=1e-5 * np.abs(expected).max())


def test_a_band_computes_its_halo_but_no_row_outside_the_image() -> None:
    case = bordered()
    pair = pair_of(case.workload)
    assert pair is not None
    shape = ChainShape.of(case.workload, pair)
    assert [shape.height(rows) for rows in (1, 4, 11, 12, 13)] == [3, 6, 13, 13, 13]
    assert [shape.bands(rows) for rows in (1, 4, 13)] == [13, 4, 1]
    assert shape.held(13, 24) > shape.held(4, 24) > 4 * 24 * 6 * 9


def test_the_schedule_replays_from_its_trace() -> None:
    case = bordered()
    space = CONV_CHAIN.space(case.workload, case.layouts, MACHINE)
    kernel = CONV_CHAIN.build(case.workload, case.layouts, space.default, MACHINE.cores, MACHINE)
    again = Schedule(kernel.module)
    Trace.apply_json_to_schedule(kernel.schedule.trace.as_json(), again)
    assert again.mod.script() == kernel.schedule.mod.script()


def chain(first: Mapping[str, object], second: Mapping[str, object], groups: int = 1) -> Case:
    s = Sketch(np.random.default_rng(0))
    middle = s.add("Conv", s.input(1, 16, 9, 9), s.weight(16, 16 // groups, 3, 3), group=groups, **first)
    s.add("Conv", middle, s.weight(16, 16, 1, 1), **second)
    return case_of(s, lambda *_: LAYOUT)


def shared_weights() -> Case:
    s = Sketch(np.random.default_rng(0))
    weights = s.weight(16, 16, 1, 1)
    s.add("Conv", s.add("Conv", s.input(1, 16, 5, 5), weights), weights)
    return case_of(s, lambda *_: LAYOUT)


def read_again() -> Case:
    s = Sketch(np.random.default_rng(0))
    middle = s.add("Conv", s.input(1, 16, 5, 5), s.weight(16, 16, 1, 1))
    s.add("Add", s.add("Conv", middle, s.weight(16, 16, 1, 1)), middle)
    return case_of(s, lambda *_: LAYOUT)


def pooled_between() -> Case:
    s = Sketch(np.random.default_rng(0))
    middle = s.add("MaxPool", s.add("Conv", s.input(1, 16, 8, 8), s.weight(16, 16, 1, 1)), kernel_shape=(2, 2))
    s.add("Conv", middle, s.weight(16, 16, 1, 1))
    return case_of(s, lambda *_: LAYOUT)


def plain_output() -> Case:
    case = chain({}, {})
    return replace(case, layouts={**case.layouts, case.workload.outputs[0]: "plain"})


REFUSED: Mapping[str, Callable[[], Case]] = {
    "steps over pixels of the first": lambda: chain({}, {"strides": (2, 2)}),
    "some groups": lambda: chain({}, {}, groups=4),
    "weights of both": shared_weights,
    "another reader of what is between": read_again,
    "a pooling between": pooled_between,
    "a plain output": plain_output,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_one_kernel_cannot_do_well_is_refused(what: str) -> None:
    case = REFUSED[what]()
    assert not CONV_CHAIN.accepts(case.workload, case.layouts, MACHINE)


def test_what_remains_is_served_by_no_other_template() -> None:
    case = chain({}, {})
    assert [t.name for t in serving(case.workload, case.layouts, MACHINE)] == ["conv_chain"]
