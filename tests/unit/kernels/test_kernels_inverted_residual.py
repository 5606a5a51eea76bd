"""An inverted residual block in one kernel: borders, bands that do not divide the image, and what is refused."""

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

from tuner.kernels.inverted_residual import InvertedResidual
from tuner.kernels.inverted_residual_shape import TrioShape, trio_of
from tuner.kernels.registry import serving
from tuner.plan.layout import blocked, to_logical

MACHINE = [machine for name, machine in DEVICES.items() if runs_here(machine)][-1]
LAYOUT = blocked(MACHINE.lanes)
TEMPLATE = InvertedResidual()


def residual(height: int = 13, width: int = 8, pads: tuple[int, ...] = (1, 1, 1, 1), groups: int = 0) -> Case:
    """Biases so large that rows and columns outside the image count if they were computed."""
    s = Sketch(np.random.default_rng(5))
    image = s.input(1, 16, height, width)
    wide = s.add("Sigmoid", s.add("Conv", image, s.weight(40, 16, 1, 1), s.weight(40, scale=100.0)))
    groups = groups or 40
    deep = s.add("Conv", wide, s.weight(40, 40 // groups, 3, 3), s.weight(40), pads=pads, group=groups)
    s.add("Add", s.add("Conv", s.add("Relu", deep), s.weight(16, 40, 1, 1, scale=0.1)), image)
    return case_of(s, lambda *_: LAYOUT)


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("knobs", [{"rows": 1}, {"rows": 4}, {"rows": 13}, {"rows": 4, "reg_a": 8, "reg_b": 8},
                                   {"rows": 7, "reg_a": 8, "reg_b": 4, "oc_a": 1, "order": 1}])  # fmt: skip
def test_what_lies_outside_the_image_is_zeros_whatever_the_band(knobs: Mapping[str, int], cores: int) -> None:
    case = residual()
    space = TEMPLATE.space(case.workload, case.layouts, MACHINE)
    chosen = {**space.default, "reg_a": 1, "reg_b": 1, "reg_c": 1, **knobs}
    kernel = TEMPLATE.build(case.workload, case.layouts, chosen, cores, MACHINE)
    library = tvm.compile(kernel.schedule.mod, target=tvm.target.Target(MACHINE.target()))
    held = call(kernel, library["main"], case, physical_inputs(case))
    expected = run(case.workload, case.values)
    np.testing.assert_allclose(to_logical(held, LAYOUT, expected.shape), expected, atol=1e-5 * np.abs(expected).max())


def test_neither_wide_image_is_as_large_as_the_model_s() -> None:
    case = residual()
    trio = trio_of(case.workload)
    assert trio is not None
    shape = TrioShape.of(case.workload, trio)
    assert shape.hidden(4) == 4 * 40 * 4 * 8
    assert [shape.pixels(side, 4) for side in "abc"] == [6 * 8, 4 * 8, 4 * 8]
    assert [trio.pair.middle != trio.hidden, trio.third.inputs[0] == trio.hidden] == [True, True]


def test_the_schedule_replays_from_its_trace() -> None:
    case = residual()
    space = TEMPLATE.space(case.workload, case.layouts, MACHINE)
    kernel = TEMPLATE.build(case.workload, case.layouts, space.default, MACHINE.cores, MACHINE)
    again = Schedule(kernel.module)
    Trace.apply_json_to_schedule(kernel.schedule.trace.as_json(), again)
    assert again.mod.script() == kernel.schedule.mod.script()


def windowed_projection() -> Case:
    s = Sketch(np.random.default_rng(0))
    wide = s.add("Conv", s.input(1, 16, 9, 9), s.weight(32, 16, 1, 1))
    deep = s.add("Conv", wide, s.weight(32, 1, 3, 3), group=32)
    s.add("Conv", deep, s.weight(16, 32, 3, 3))
    return case_of(s, lambda *_: LAYOUT)


def read_again() -> Case:
    s = Sketch(np.random.default_rng(0))
    wide = s.add("Conv", s.input(1, 16, 9, 9), s.weight(32, 16, 1, 1))
    deep = s.add("Conv", wide, s.weight(32, 1, 3, 3), group=32, pads=(1, 1, 1, 1))
    s.add("Add", s.add("Conv", deep, s.weight(32, 32, 1, 1)), wide)
    return case_of(s, lambda *_: LAYOUT)


def plain_output() -> Case:
    case = residual()
    return replace(case, layouts={**case.layouts, case.workload.outputs[0]: "plain"})


REFUSED: Mapping[str, Callable[[], Case]] = {
    "groups of several channels": lambda: residual(groups=8),
    "a projection with a window": windowed_projection,
    "another reader of what is between": read_again,
    "a plain output": plain_output,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_one_kernel_cannot_do_well_is_refused(what: str) -> None:
    case = REFUSED[what]()
    assert not TEMPLATE.accepts(case.workload, case.layouts, MACHINE)


def test_what_remains_is_served_by_no_other_template() -> None:
    case = residual()
    assert [t.name for t in serving(case.workload, case.layouts, MACHINE)] == ["inverted_residual"]
