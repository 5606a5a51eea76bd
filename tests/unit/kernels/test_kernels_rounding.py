"""Rounding to bfloat16 inside kernels: with the instruction and without, as numpy does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from kernel_cases import DEVICES, DOT, runs_here
from tvm import te, tirx

from tuner.kernels import math as fast
from tuner.kernels.rounding import LANES, to_bf16
from tuner.kernels.scheduling import module_of, schedule_of
from tuner.plan.bf16 import stored
from tuner.types import Device

COUNT = 1 << 13
MACHINES = [machine for machine in (*DEVICES.values(), *DOT.values()) if runs_here(machine)]
INSTRUCTION = "vcvtneps2bf16"


def numbers() -> np.ndarray:
    """Normal ones of all sizes, ties, zeros and infinities."""
    bits = np.random.default_rng(0).integers(1 << 23, 0x7F000000, COUNT, dtype=np.uint64).astype(np.uint32)
    bits[::3] = bits[::3] & np.uint32(0xFFFF0000) | np.uint32(0x8000)
    bits[1::2] |= np.uint32(1 << 31)
    bits[:4] = [0, 1 << 31, 0x7F800000, 0xFF800000]
    return bits.view(np.float32)


def compiled(machine: Device, lanes: int, *, within: bool) -> Any:
    x = te.placeholder((COUNT,), "float32", name="x")
    schedule = schedule_of(module_of([x, te.compute((COUNT,), lambda i: to_bf16(x[i]), name="y")]))
    if lanes > 1:
        _, inner = schedule.split(schedule.get_loops("y")[0], [None, lanes])
        schedule.vectorize(inner)
    target = tvm.target.Target(machine.target())
    if not within:
        return tvm.compile(schedule.mod, target=target)
    with target:
        return tvm.compile(schedule.mod, target=target)


def text_of(library: Any) -> str:
    modules, found = [library.mod], []
    while modules:
        module = modules.pop()
        modules += list(module.imports)
        if module.kind == "llvm":
            found.append(module.inspect_source("asm"))
    return "".join(found)


@pytest.mark.parametrize("lanes", [1, 4, LANES])
@pytest.mark.parametrize("within", [True, False])
def test_it_rounds_to_the_nearest_ties_to_even(lanes: int, within: bool) -> None:
    for machine in MACHINES:
        library = compiled(machine, lanes, within=within)
        out = tvm.runtime.tensor(np.zeros(COUNT, np.uint16))
        library["main"](tvm.runtime.tensor(numbers()), out)
        assert np.array_equal(out.numpy(), stored(numbers()))


def test_what_was_stored_rounded_is_passed_on_as_it_is() -> None:
    x = te.placeholder((8,), "uint16", name="x")
    i = tirx.Var("i", "int32")
    wide = fast.from_bf16(x[i])
    chosen = tirx.if_then_else(i < 4, wide, tirx.Select(i < 6, fast.const(1.0), fast.from_bf16(x[i - 1])))
    for same in (wide, chosen, fast.const(0.1)):
        assert "to_bf16" not in str(to_bf16(same)) and "reinterpret" not in str(to_bf16(same))
    assert int(to_bf16(fast.const(0.1))) == stored(np.float32(0.1))
    for other in (wide + fast.const(1), tirx.if_then_else(i < 4, wide, wide * wide), fast.exp(wide)):
        assert "to_bf16" in str(to_bf16(other))


def test_whole_vectors_take_the_instruction_where_there_is_one() -> None:
    with_it, without = DOT["dot"], DEVICES["v4"]
    assert INSTRUCTION in text_of(compiled(with_it, LANES, within=True))
    assert INSTRUCTION not in text_of(compiled(with_it, LANES, within=False))
    assert INSTRUCTION not in text_of(compiled(without, LANES, within=True))
