"""Convolutions of 8-bit integers: exact to the last bit of what numpy's integers give, and nothing saturates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import tvm
from kernel_cases import DEVICES, VNNI, Case, Sketch, call, case_of, given, physical_inputs, runs_here
from tvm import te

from tuner.kernels import stepping
from tuner.kernels.registry import TEMPLATES, serving, template
from tuner.kernels.scheduling import module_of, schedule_of
from tuner.plan import int8
from tuner.plan.layout import PLAIN, RANGE, blocked, derived, to_logical
from tuner.precision import BF16, FP32, INT8, INT8_FEATURE, QUANTISED, precision_of

(MACHINE,) = VNNI.values()
MAKER = template("conv2d_int8")
needs_vnni = pytest.mark.skipif(not runs_here(MACHINE), reason="this processor has no AVX512-VNNI")


def conv(s: Sketch, ic: int = 24, oc: int = 40, kernel: int = 3, **attrs: object) -> None:
    s.add("Conv", s.input(1, ic, 9, 9), s.weight(oc, ic, kernel, kernel), **attrs)


CASES: Mapping[str, Callable[[Sketch], None]] = {
    "1x1": lambda s: conv(s, ic=64, kernel=1),
    "1x1 with a stride": lambda s: conv(s, kernel=1, strides=(2, 2)),
    "3x3 with a border": lambda s: conv(s, pads=(1, 1, 1, 1)),
    "3x3 with a stride, 17 channels": lambda s: conv(s, ic=17, oc=17, pads=(1, 0, 1, 2), strides=(2, 1)),
    "5x5 with gaps": lambda s: conv(s, ic=32, oc=16, kernel=5, dilations=(2, 1), pads=(2, 2, 2, 2)),
    "7x7 of a plain image": lambda s: conv(s, ic=3, oc=64, kernel=7, strides=(2, 2), pads=(3, 3, 3, 3)),
    "1x1 of a plain image": lambda s: conv(s, ic=5, oc=33, kernel=1),
}


def drawn(name: str, change: Callable[[dict[str, np.ndarray]], None] = lambda _: None) -> Case:
    sketch = Sketch(np.random.default_rng(0))
    CASES[name](sketch)

    def layout(_: str, shape: tuple[int, ...], output: bool) -> str:
        return PLAIN if "plain" in name and not output else blocked(16)

    case = case_of(sketch, layout)
    change(case.values)  # type: ignore[arg-type]
    return case


def integers(case: Case) -> np.ndarray:
    """The sums of products of integers, by the definition of a convolution, in int64."""
    (layer,) = case.workload.layers
    image, weights = case.values[layer.inputs[0]], int8.codes(case.values[layer.inputs[1]]).astype(np.int64)
    steps = int8.stepped(image, grid(case)).astype(np.int64)
    top, left, bottom, right = layer.attr("pads", (0, 0, 0, 0))
    (sy, sx), (dy, dx) = layer.attr("strides", (1, 1)), layer.attr("dilations", (1, 1))
    padded = np.pad(steps, [(0, 0), (0, 0), (top, bottom), (left, right)])
    n, oc, oh, ow = case.workload.tensors[layer.outputs[0]].shape
    found = np.zeros((n, oc, oh, ow), np.int64)
    for y in range(weights.shape[2]):
        for x in range(weights.shape[3]):
            part = padded[:, :, y * dy : y * dy + (oh - 1) * sy + 1 : sy, x * dx : x * dx + (ow - 1) * sx + 1 : sx]
            found += np.einsum("nchw,oc->nohw", part, weights[:, :, y, x])
    return found


def grid(case: Case) -> np.ndarray:
    return int8.grid(given(case, derived(case.workload.layers[0].inputs[0], RANGE)))


def computed(case: Case, knobs: Mapping[str, int], cores: int) -> np.ndarray:
    kernel = MAKER.build(case.workload, case.layouts, knobs, cores, MACHINE)
    with tvm.target.Target(MACHINE.target()) as target:
        library = tvm.compile(kernel.schedule.mod, target=target)
    out = case.workload.outputs[0]
    held = call(kernel, library["main"], case, physical_inputs(case))
    return to_logical(held, case.layouts[out], case.workload.tensors[out].shape)


@needs_vnni
@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_integers_to_the_last_bit(name: str) -> None:
    case = drawn(name)
    space = MAKER.space(case.workload, case.layouts, MACHINE)
    scale = int8.scales(case.values[case.workload.layers[0].inputs[1]]).reshape(1, -1, 1, 1)
    expected = integers(case).astype(np.float32) * (grid(case)[1] * scale)
    orders = {p["order"]: p for p in space.points}  # one of each
    for cores, knobs in ((1, space.default), (4, space.default), *((2, p) for p in orders.values())):
        assert np.array_equal(computed(case, knobs, cores), expected), f"{name} {knobs} on {cores} cores"


@needs_vnni
@pytest.mark.parametrize("name", ["1x1", "3x3 with a border", "7x7 of a plain image"])
@pytest.mark.parametrize("image", [(0.0, 1.0), (-1.0, 0.0), (-1.0, 3.0)])
def test_the_largest_products_do_not_saturate(name: str, image: tuple[float, float]) -> None:
    """All weights are the largest integers, and images the highest or the lowest step."""

    def extreme(values: dict[str, np.ndarray]) -> None:
        for array in values.values():
            if array.shape[2:] == (9, 9):
                array[...] = np.random.default_rng(1).choice(image, array.shape)
            else:
                array[...] = np.where(np.arange(len(array)) % 2, 0.5, -0.5).reshape(-1, 1, 1, 1)

    case = drawn(name, extreme)
    codes = int8.codes(case.values[case.workload.layers[0].inputs[1]])
    assert set(np.abs(codes.reshape(-1)).tolist()) == {127}
    space = MAKER.space(case.workload, case.layouts, MACHINE)
    scale = int8.scales(case.values[case.workload.layers[0].inputs[1]]).reshape(1, -1, 1, 1)
    expected = integers(case).astype(np.float32) * (grid(case)[1] * scale)
    assert np.abs(integers(case)).max() > 1 << 16
    assert np.array_equal(computed(case, space.default, 1), expected)


@needs_vnni
@pytest.mark.parametrize("size", [16, 5])  # as vectors, and one by one
def test_numbers_become_steps_as_numpy_says(size: int) -> None:
    numbers = int8.grid(np.array([-2.0, 5.0], np.float32))
    step = float(numbers[1])
    ties = [0, step * 0.5, step * 1.5, step * 2.5, -step * 0.5]
    image = np.array([*ties, -2, 5, 1e9, -1e9, np.inf, -np.inf, 1e-40, 3, 4, -1, step], np.float32)[:size]
    x, g = te.placeholder((size,), "float32", name="x"), te.placeholder((4,), "float32", name="g")
    out = te.compute((size,), lambda i: stepping.to_uint8(x(i), g(0), g(2), g(3)), name="out")
    schedule = schedule_of(module_of([x, g, out]))
    (loop,) = schedule.get_loops(schedule.get_sblock("out"))
    if size == stepping.LANES:
        outer, inner = schedule.split(loop, [1, size])
        schedule.annotate(outer, "pragma_import_llvm", stepping.SOURCE)
        schedule.vectorize(inner)
    with tvm.target.Target(MACHINE.target()) as target:
        function = tvm.compile(schedule.mod, target=target)["main"]
    held = tvm.runtime.tensor(np.zeros(size, np.uint8))
    function(tvm.runtime.tensor(image), tvm.runtime.tensor(numbers), held)
    assert np.array_equal(held.numpy(), (int8.stepped(image, numbers) - numbers[2]).astype(np.uint8))


def test_the_instruction_is_in_the_innermost_loop() -> None:
    case = drawn("3x3 with a border")
    knobs = MAKER.space(case.workload, case.layouts, MACHINE).default
    kernel = MAKER.build(case.workload, case.layouts, knobs, 1, MACHINE)
    with tvm.target.Target(MACHINE.target()) as target:
        text = tvm.compile(kernel.schedule.mod, target=target).mod.inspect_source("asm")
    assert text.count("vpdpbusd") >= knobs["oc_t"] * knobs["reg_n"] and "vpmaddubsw" not in text
    assert text.count("vpmovdb") + text.count("vpmovusdb") > 0  # images become integers by vectors


def test_what_integers_stand_for_is_an_argument_and_no_part_of_the_code() -> None:
    case = drawn("1x1")
    knobs = MAKER.space(case.workload, case.layouts, MACHINE).default
    args = {a.name: a for a in MAKER.build(case.workload, case.layouts, knobs, 1, MACHINE).args}
    image, weights = case.workload.layers[0].inputs
    assert args[weights].dtype == "int8" and args[image].dtype == "float32"
    assert {n: (a.dtype, a.shape) for n, a in args.items() if "#" in n} == {
        derived(image, "grid"): ("float32", (4,)), derived(weights, "sums"): ("int32", (48,)),
        derived(weights, "scales"): ("float32", (48,)),
    }  # fmt: skip


def test_it_is_registered_and_says_what_it_computes_in() -> None:
    assert {t.name for t in TEMPLATES if t.precision == INT8} == {n for twins in QUANTISED.values() for n in twins}
    assert precision_of(MAKER.name) == MAKER.precision == INT8


def test_only_jobs_in_int8_on_processors_with_the_instruction_are_served() -> None:
    case = drawn("3x3 with a border")
    served = {p: [t.name for t in serving(case.workload, case.layouts, MACHINE, p)] for p in (FP32, BF16, INT8)}
    assert MAKER.name not in served[FP32] and MAKER.name not in served[BF16]
    assert served[INT8] == [*served[FP32], MAKER.name]
    arm = replace(DEVICES["v2"], mcpu="neoverse-n1", features=("asimd", "asimddp"))
    for other in (*DEVICES.values(), arm, replace(DEVICES["v3"], features=(INT8_FEATURE,))):
        assert not MAKER.accepts(case.workload, case.layouts, other)


def test_groups_and_old_opsets_are_not_served() -> None:
    for groups, opset in ((2, 20), (16, 20), (1, 12)):
        s = Sketch(np.random.default_rng(0), opset=opset)
        s.add("Conv", s.input(1, 16, 8, 8), s.weight(32, 16 // groups, 3, 3), group=groups)
        case = case_of(s, lambda *_: blocked(16))
        assert not MAKER.accepts(case.workload, case.layouts, MACHINE)
