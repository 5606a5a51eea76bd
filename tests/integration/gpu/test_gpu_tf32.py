"""tf32 on tensor cores, as far as that can be seen without a GPU: schedules, code, accuracy, a build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, topi

from tests.integration.gpu.conftest import Round
from tests.integration.gpu.gpu_models import job
from tests.integration.gpu.warps_on_cpu import can_run, run
from tests.unit.designs.design_functions import gpu, matmul
from tests.unit.designs.tf32_tools import round_tf32
from tuner.designs.tf32 import lay_out, tensorise
from tuner.errors import CandidateError, InternalError
from tuner.gpu.build_only import BuildOnly
from tuner.gpu.bundle_run import relative_error
from tuner.gpu.checking import check_lowering, check_schedule, reference_of
from tuner.gpu.cuda import build_kernel, cuda_of, target_of
from tuner.gpu.estimate import estimate
from tuner.gpu.explore import Explorer, Scheduled
from tuner.gpu.lower import Task, lower
from tuner.gpu.nvcc import find_nvcc
from tuner.gpu.precision import LIMITS
from tuner.gpu.rounded import rounded
from tuner.gpu.spec import GPUS
from tuner.graph.load import import_model
from tuner.inputs import Inputs
from tuner.measure.device import devices

DEVICE, SPEC = devices("rtx3090"), GPUS["rtx3090"]
MULTIPLY = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
ROUND = "cvt.rna.tf32.f32"


def channels_last() -> Any:
    """A 3x3 convolution, channels last, with ReLU behind it; neither its pixels nor its channels fill tiles."""
    x = te.placeholder((1, 9, 9, 20), "float32", name="x")
    w = te.placeholder((28, 3, 3, 20), "float32", name="w")
    y = topi.nn.conv2d(x, w, 1, 1, 1, data_layout="NHWC", kernel_layout="OHWI", out_dtype="float32")
    function = te.create_prim_func([x, w, topi.nn.relu(y)]).with_attr({"global_symbol": "main", "tirx.noalias": True})
    return tvm.IRModule({"main": function})


TASKS = {"matmul": matmul(), "padded": matmul(50, 60, 70), "conv": channels_last()}


@pytest.fixture(scope="module", params=TASKS)
def made(request: pytest.FixtureRequest) -> tuple[Task, list[Scheduled]]:
    task = Task((request.param,), TASKS[request.param], 1)
    explorer = Explorer(task, gpu(), SPEC, precision="tf32")
    assert explorer.why is None and len(explorer.spaces) == 2  # B as it is, and transposed
    return task, list(explorer.draw(4, np.random.default_rng(0)))


def test_schedules_compute_what_their_function_does(made: tuple[Task, list[Scheduled]]) -> None:
    task, candidates = made
    reference = reference_of(task, 3)
    errors = [check_schedule(candidate, task, reference) for candidate in candidates]
    assert len(errors) >= 2
    assert all(error is not None and error < 1e-5 for error in errors)


def test_all_their_products_run_on_tensor_cores_and_are_expected_to(made: tuple[Task, list[Scheduled]]) -> None:
    task, candidates = made
    for candidate in candidates:
        counts, guess = candidate.looked.counts, candidate.looked.guess
        assert counts.tensor_operations > 0.95 * counts.operations
        assert candidate.candidate.precision == "tf32"
        assert guess == estimate(counts, SPEC, task.compulsory, SPEC.tensor_tf32)
    counts = replace(candidates[0].looked.counts, tensor_operations=1e12, operations=1e12)
    faster = estimate(counts, SPEC, 0.0, SPEC.tensor_fp16)
    assert faster < estimate(counts, SPEC, 0.0, SPEC.tensor_tf32)


def test_the_code_rounds_and_multiplies_in_tf32_and_compiles(
    made: tuple[Task, list[Scheduled]], tmp_path: Path
) -> None:
    _, candidates = made
    module = tvm.IRModule({"main": candidates[0].function})
    source = cuda_of(module, target_of(DEVICE))
    assert MULTIPLY in source and ROUND in source and "__shared__" in source
    kernel = source[source.rindex("__global__") :]
    assert kernel.count("fusetune_mma_tf32(") >= 1
    assert kernel.count("fusetune_round_tf32(") % 2 == 0  # two registers of B, four of A
    try:
        compiler = find_nvcc()
    except InternalError as error:
        assert error.code == "no-nvcc"
        return
    built = build_kernel(module, target_of(DEVICE), tmp_path / "kernel.so", "sm_86", compiler)
    (cubin,) = built.cubins.values()
    assert cubin.code[:4] == b"\x7fELF" and cubin.registers > 16


def test_a_product_in_another_layout_is_not_replaced() -> None:
    """TVM compares the loops with those of the intrinsic before it replaces them."""
    explorer = Explorer(Task(("matmul",), matmul(), 1), gpu(), SPEC, precision="tf32")
    space = explorer.spaces[0]
    knobs = space.draw(1, np.random.default_rng(0))[0]
    schedule = space.apply(knobs, tensorise=False).schedule
    with pytest.raises(tvm.s_tir.ScheduleError):
        lay_out(schedule)  # twice: the registers of registers
        tensorise(schedule)


def test_rounded_functions_multiply_what_tf32_holds() -> None:
    function = matmul(8, 8, 64)["main"]
    library = tvm.compile(tvm.IRModule({"main": rounded(function)}), target="llvm")
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((8, 64), (64, 8)))
    out = tvm.runtime.tensor(np.zeros((8, 8), np.float32))
    library["main"](tvm.runtime.tensor(a), tvm.runtime.tensor(b), out)
    exact = round_tf32(a).astype(np.float64) @ round_tf32(b).astype(np.float64)
    assert np.abs(out.numpy() - exact).max() < 1e-5
    assert np.abs(out.numpy() - a.astype(np.float64) @ b).max() > 1e-4


def test_values_stay_float32_and_the_loss_of_accuracy_is_seen(first_round: Round) -> None:
    model = import_model(first_round.model)
    lowered = lower(model.graph, model.weights, target_of(DEVICE), "tf32")
    assert {str(p.dtype) for p in lowered.parameters} == {"float32"}
    convolution = next(task for task in lowered.tasks if "conv2d" in task.name)
    assert convolution.args[0][0] == (1, 14, 14, 16)  # channels last
    inputs = Inputs(model.graph, {}, 0).sets
    exact, ours = (
        check_lowering(lowered, model.graph, first_round.model, inputs, LIMITS[p], p) for p in ("fp32", "tf32")
    )
    assert exact.passed and exact.max_rel_error < 1e-5
    assert ours.passed and 1e-5 < ours.max_rel_error < ours.limit == LIMITS["tf32"]


@pytest.mark.slow
def test_a_model_is_built_with_tensor_cores(compiler: None, first_round: Round, tmp_path: Path) -> None:
    spec = replace(job(), precision="tf32")
    report = BuildOnly(spec, first_round.model, DEVICE, tmp_path / "out").run()
    assert report["precision"] == "tf32"
    assert 1e-5 < report["verification"]["max_rel_error"] < report["verification"]["limit"] == LIMITS["tf32"]
    convolutions = [block for block in report["blocks"] if "conv2d" in block["function"]]
    assert convolutions and all(block["tensor_cores"] for block in convolutions)
    assert all(block["checked_error"] is not None and block["checked_error"] < 1e-4 for block in convolutions)


def test_knobs_of_another_space_are_refused() -> None:
    explorer = Explorer(Task(("matmul",), matmul(), 1), gpu(), SPEC, precision="tf32")
    with pytest.raises(CandidateError):
        explorer.make({"space": 2})


def test_the_code_of_a_kernel_computes_what_tf32_does(made: tuple[Task, list[Scheduled]], tmp_path: Path) -> None:
    """Its lanes run as threads of this CPU, and its tensor cores as the PTX ISA describes them."""
    if not can_run():
        return
    task, candidates = made
    whole = [c for c in candidates if c.looked.counts.threads <= 256]
    assert whole
    in_tf32 = Task(task.symbols, tvm.IRModule({"main": rounded(task.module["main"])}), 1)
    reference, exact = reference_of(in_tf32, 3), reference_of(task, 3)
    for number, candidate in enumerate(whole[:2]):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = cuda_of(tvm.IRModule({"main": candidate.function}), target_of(DEVICE))
        found = run(source, candidate.function, reference.inputs, task.args[-1][0], folder)
        assert relative_error(found, reference.output) < 1e-6
        assert relative_error(found, exact.output) > 1e-5
