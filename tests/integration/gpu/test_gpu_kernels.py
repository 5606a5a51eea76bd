"""Schedules for a GPU looked at, run on the CPU, compiled; and a bundle measured for real, on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from tests.unit.designs.design_functions import conv, gpu, matmul
from tuner.errors import CandidateError, InternalError
from tuner.gpu.bundle import Bundle
from tuner.gpu.bundle_run import measure
from tuner.gpu.checking import check_schedule, reference_of
from tuner.gpu.cuda import build_kernel, target_of
from tuner.gpu.explore import Explorer, Scheduled
from tuner.gpu.lower import Task
from tuner.gpu.nvcc import find_nvcc
from tuner.gpu.spec import GPUS
from tuner.measure.device import detect_cpu, devices

SPEC = GPUS["rtx3090"]
CONV = Task(("conv",), conv(14, 32), 1)
MATMUL = Task(("matmul",), matmul(), 1)


@pytest.fixture(scope="module", params=[CONV, MATMUL], ids=["conv", "matmul"])
def made(request: pytest.FixtureRequest) -> tuple[Task, list[Scheduled]]:
    explorer = Explorer(request.param, gpu(), SPEC)
    return request.param, [explorer.default(), *explorer.draw(4, np.random.default_rng(0))]


def test_every_schedule_computes_what_its_function_does(made: tuple[Task, list[Scheduled]]) -> None:
    task, candidates = made
    reference = reference_of(task, 3)
    errors = [check_schedule(candidate, task, reference) for candidate in candidates]
    assert len(errors) >= 3
    assert all(error is not None and error < 1e-5 for error in errors)


def test_a_schedule_that_leaves_something_out_is_wrong(made: tuple[Task, list[Scheduled]]) -> None:
    task, candidates = made
    candidate = next(c for c in candidates[1:] if c.looked.counts.blocks > 1)
    broken = replace(candidate, function=one_block_less(candidate.function))
    with pytest.raises(CandidateError) as raised:
        check_schedule(broken, task, reference_of(task, 3))
    assert raised.value.code == "wrong"


def test_counts_say_what_a_kernel_does(made: tuple[Task, list[Scheduled]]) -> None:
    task, candidates = made
    operations = {"conv": 2 * 32 * 32 * 9 * 14 * 14, "matmul": 2 * 64 * 96 * 128}[task.name]
    for candidate in candidates[1:]:
        counts = candidate.looked.counts
        assert counts.operations == pytest.approx(operations, rel=0.2)
        assert counts.launches == 1 and 32 <= counts.threads <= 1024
        assert 0 < counts.shared <= 48 << 10
        assert counts.global_bytes >= task.compulsory / 2
        assert candidate.looked.guess > operations / SPEC.peak


def test_a_candidate_is_made_again_from_its_knobs(made: tuple[Task, list[Scheduled]]) -> None:
    task, candidates = made
    explorer = Explorer(task, gpu(), SPEC)
    again = explorer.make(candidates[1].candidate.knobs)
    assert again.key == candidates[1].key
    tvm.ir.assert_structural_equal(again.function, candidates[1].function)
    for knobs in ({"space": 99}, {"space": 0}, candidates[1].candidate.knobs | {"tile1": 10**6}):
        with pytest.raises(CandidateError):
            explorer.make(knobs)


def test_a_kernel_is_compiled_to_machine_code_where_there_is_a_compiler(tmp_path: Path) -> None:
    """With nvcc on PATH or its wheel installed the cubin is an ELF file; without, the error names what is missing."""
    device = devices("rtx3090")
    explorer = Explorer(MATMUL, target_of(device), SPEC)
    candidate = next(explorer.draw(1, np.random.default_rng(0)))
    try:
        compiler = find_nvcc()
    except InternalError as error:
        assert error.code == "no-nvcc"
        return
    module = tvm.IRModule({"main": candidate.function})
    built = build_kernel(module, target_of(device), tmp_path / "kernel.so", "sm_86", compiler)
    (cubin,) = built.cubins.values()
    assert built.library.is_file() and cubin.code[:4] == b"\x7fELF"
    assert cubin.registers > 8


def test_a_bundle_for_this_cpu_is_measured_with_the_tvm_runtime_alone(tmp_path: Path) -> None:
    """The path of a GPU bundle from end to end, with kernels of MetaSchedule's CPU spaces in place of cubins."""
    cpu = detect_cpu()
    target = tvm.target.Target(cpu.target())
    explorer = Explorer(MATMUL, target, SPEC, rules="llvm")
    bundle = Bundle(tmp_path, seed=5)
    bundle.add_task(MATMUL, reference_of(MATMUL, 5).output)
    for candidate in explorer.draw(2, np.random.default_rng(0)):
        module = tvm.IRModule({"main": candidate.function})
        compiler: Any = None  # there is no CUDA in it
        bundle.add(candidate, build_kernel(module, target, bundle.library(candidate), "cpu", compiler), 1e-6)
    bundle.finish({"name": "m", "sha256": "m"}, cpu, "cpu", "test")
    results = measure(tmp_path)
    assert len(results["results"]) == len(bundle) >= 1
    for result in results["results"]:
        assert result["failure"] is None, result
        assert min(result["samples"]) > 0 and result["max_rel_error"] < 1e-5


def one_block_less(function: Any) -> Any:
    """A scheduled function that forgets its last block."""
    root = function.body.block
    loop = root.body
    shorter = tirx.For(loop.loop_var, loop.min, tirx.IntImm("int32", int(loop.extent) - 1), loop.kind, loop.body,
                       loop.thread_binding, loop.annotations)  # fmt: skip
    block = SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, shorter, root.init, root.alloc_buffers,
                   root.match_buffers, root.annotations)  # fmt: skip
    return function.with_body(SBlockRealize([], True, block))
