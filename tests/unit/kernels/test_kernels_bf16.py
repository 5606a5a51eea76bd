"""Kernels with weights in bfloat16: how far from float32 they may be, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import kernel_reference as reference
import numpy as np
import pytest
import tvm
from kernel_cases import DEVICES, Case, Sketch, call, case_of, physical_inputs, runs_here

from tuner.kernels.registry import BY_NAME, TEMPLATES, serving, template
from tuner.plan.bf16 import STEP
from tuner.plan.layout import PLAIN, blocked, to_logical
from tuner.precision import BF16, FP32, LOWERED, precision_of

MACHINE = [machine for machine in DEVICES.values() if runs_here(machine)][-1]
FLOAT32 = 1e-5  # what float32 sums may be off besides, of the same sum of absolute products


def image(_: str, shape: tuple[int, ...], __: bool) -> str:
    return blocked(MACHINE.lanes) if len(shape) == 4 else PLAIN


def conv(s: Sketch) -> None:
    s.add("Conv", s.input(1, 24, 9, 9), s.weight(40, 24, 3, 3), pads=(1, 1, 1, 1))


def conv_pool(s: Sketch) -> None:
    name = s.add("Conv", s.input(1, 17, 8, 8), s.weight(32, 17, 3, 3), pads=(1, 1, 1, 1))
    s.add("AveragePool", name, kernel_shape=(2, 2), strides=(2, 2))


def dense(s: Sketch) -> None:
    s.add("Gemm", s.input(1, 300), s.weight(70, 300), transB=1)


CASES: Mapping[str, Callable[[Sketch], None]] = {
    "conv2d_bf16": conv, "conv2d_pool_bf16": conv_pool, "dense_bf16": dense
}  # fmt: skip


def case(name: str, seed: int = 0) -> Case:
    sketch = Sketch(np.random.default_rng(seed))
    CASES[name](sketch)
    return case_of(sketch, image)


def absolute(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.abs(array) for name, array in values.items()}


def test_every_twin_is_registered_and_says_what_it_stores() -> None:
    assert {t.name for t in TEMPLATES if t.precision == BF16} == set(LOWERED.values()) == CASES.keys()
    assert all(precision_of(t.name) == t.precision for t in TEMPLATES)
    for name, twin in LOWERED.items():
        assert isinstance(BY_NAME[twin], type(BY_NAME[name]))


@pytest.mark.parametrize("name", CASES)
def test_results_keep_the_bound_of_rounded_weights(name: str) -> None:
    """|y - y32| <= 2**-8 sum |w x|: the workloads are sums of products alone, so sums of absolute values bound them."""
    made = case(name)
    maker = template(name)
    kernel = maker.build(
        made.workload, made.layouts, maker.space(made.workload, made.layouts, MACHINE).default, 1, MACHINE
    )
    library = tvm.compile(kernel.schedule.mod, target=tvm.target.Target(MACHINE.target()))
    out = made.workload.outputs[0]
    exact = reference.run(made.workload, made.values)
    most = reference.run(made.workload, absolute(made.values))
    held = call(kernel, library["main"], made, physical_inputs(made))
    off = np.abs(to_logical(held, made.layouts[out], exact.shape) - exact)
    assert (off <= (STEP + FLOAT32) * most).all()
    assert off.max() > 1e-4 * np.abs(exact).max()  # and float32 weights would be much closer


@pytest.mark.parametrize("name", CASES)
def test_weights_take_half_the_bytes_and_nothing_else_changes(name: str) -> None:
    made, maker = case(name), template(name)
    twin = template(next(plain for plain, lowered in LOWERED.items() if lowered == name))
    space = maker.space(made.workload, made.layouts, MACHINE)
    kernels = [each.build(made.workload, made.layouts, space.default, 2, MACHINE) for each in (maker, twin)]
    (lowered, plain) = ({a.name: a for a in k.args} for k in kernels)
    weights = made.workload.layers[0].inputs[1]
    assert lowered[weights].dtype == "uint16" and plain[weights].dtype == "float32"
    assert lowered[weights].shape == plain[weights].shape
    others = lowered.keys() - {weights}
    assert all(lowered[n] == plain[n] and lowered[n].dtype == "float32" for n in others)


@pytest.mark.parametrize("name", CASES)
def test_only_jobs_in_bf16_are_served(name: str) -> None:
    made = case(name)
    served = {p: [t.name for t in serving(made.workload, made.layouts, MACHINE, p)] for p in (FP32, BF16)}
    assert served[FP32] == [t.name for t in serving(made.workload, made.layouts, MACHINE)]
    assert name not in served[FP32]
    assert [*served[FP32], name] == served[BF16]


def test_depthwise_weights_stay_float32() -> None:
    s = Sketch(np.random.default_rng(0))
    s.add("Conv", s.input(1, 16, 8, 8), s.weight(16, 1, 3, 3), group=16)
    made = case_of(s, image)
    assert not {t.name for t in serving(made.workload, made.layouts, MACHINE, BF16)} & set(LOWERED.values())
