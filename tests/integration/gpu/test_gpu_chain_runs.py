"""Chains of convolutions in one GPU kernel: what their schedules compute, on a CPU, and that they compile."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlockRealize

from tests.integration.gpu.gpu_models import job
from tests.integration.gpu.warps_on_cpu import can_run, run
from tests.unit.gpu.chain_models import CASES, INVERTED, SPEC, Case, longest, lowered_case, write_case
from tuner.designs.chain import ChainSpace
from tuner.errors import CandidateError, InternalError
from tuner.gpu.build_only import BuildOnly
from tuner.gpu.bundle_run import relative_error
from tuner.gpu.chains import with_chains
from tuner.gpu.checking import LIMIT, check_lowering, check_schedule, reference_of
from tuner.gpu.cuda import build_kernel, cuda_of, target_of
from tuner.gpu.emulate import emulate
from tuner.gpu.explore import CHAIN, Explorer, Scheduled
from tuner.gpu.host import host
from tuner.gpu.lower import Task
from tuner.gpu.nvcc import find_nvcc
from tuner.gpu.persistent import limited
from tuner.inputs import Inputs
from tuner.measure.device import devices

TARGET = target_of(SPEC.device())


def some(task: Task, count: int, precision: str = "fp32", seed: int = 0) -> list[Scheduled]:
    explorer = Explorer(task, TARGET, SPEC, precision=precision)
    return list(explorer.draw(count, np.random.default_rng(seed)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_schedules_compute_what_the_convolutions_do(case: Case, tmp_path: Path) -> None:
    """Emulated, each block of threads with nothing but what it computed itself, and against ONNX Runtime."""
    model, lowered = lowered_case(tmp_path, case)
    chain = longest(lowered)
    assert len(chain.parts) == len(case.convs)
    whole = with_chains(lowered, [(chain, chain.places[0])])
    inputs = Inputs(model.graph, {}, 0).sets
    assert check_lowering(whole, model.graph, tmp_path / f"{case.name}.onnx", inputs, 1e-5).passed
    reference = reference_of(chain.task, 3)
    made = some(chain.task, 4)
    assert len(made) >= 3
    for each in made:
        error = check_schedule(each, chain.task, reference)
        assert error is not None and error < 1e-5, each.candidate.knobs


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)
def test_so_do_they_with_channels_last(case: Case, precision: str, tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, case, precision)
    chain = longest(lowered)
    reference = reference_of(chain.task, 3)
    for each in some(chain.task, 3, precision):
        assert each.candidate.precision == precision and not each.looked.counts.tensor_operations
        assert check_schedule(each, chain.task, reference) is not None


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_the_cuda_code_computes_it_thread_by_thread(case: Case, tmp_path: Path) -> None:
    """The code that nvcc would get, its barriers real ones."""
    if not can_run():
        return
    _, lowered = lowered_case(tmp_path, case)
    task = longest(lowered).task
    reference = reference_of(task, 5)
    for number, each in enumerate(e for e in some(task, 6, seed=1) if e.looked.counts.threads <= 256):
        (folder := tmp_path / str(number)).mkdir()
        source = cuda_of(tvm.IRModule({"main": each.function}), TARGET)
        out = run(source, each.function, reference.inputs, task.args[-1][0], folder)
        assert relative_error(out, reference.output) < LIMIT, each.candidate.knobs
        if number == 1:
            break


def test_a_tile_that_reads_its_neighbours_pixels_is_wrong(tmp_path: Path) -> None:
    """Emulation would show nothing if blocks found in memory what other blocks left there."""
    _, lowered = lowered_case(tmp_path, INVERTED)
    task = longest(lowered).task
    explorer = Explorer(task, TARGET, SPEC)
    (space,) = explorer.spaces
    assert isinstance(space, ChainSpace)
    wanted = {"rows": (7, 1), "columns": (7, 2), "channels": (4, 4), "stage": 0, "unroll": 1, "chunk": 8,
              "image0": (1, 1), "image1": (1, 1)}  # fmt: skip
    knobs = {name: list(p.values).index(wanted[name]) for name, p in space.parameters.items()}
    good = explorer.make({"space": 0, **knobs})
    reference = reference_of(task, 3)
    assert check_schedule(good, task, reference) is not None
    broken = replace(good, function=_without_halo(good.function))
    with pytest.raises(CandidateError) as raised:
        check_schedule(broken, task, reference)
    assert raised.value.code == "wrong"


def test_on_fewer_sms_each_block_does_several_tiles(tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, INVERTED)
    task = longest(lowered).task
    reference = reference_of(task, 3)
    tried = 0
    for each in some(task, 8):
        blocks = each.looked.counts.blocks
        if blocks % 2 or blocks < 4:
            continue
        function = limited(each.function, blocks // 2)
        out = emulate(function, tvm.target.Target(host().target())).run(reference.inputs, *task.args[-1])
        assert relative_error(out, reference.output) < LIMIT
        tried += 1
    assert tried


def test_shared_memory_is_what_was_counted(tmp_path: Path) -> None:
    """What the CUDA C declares is no more than what a point was said to take, and within a block's limit."""
    _, lowered = lowered_case(tmp_path, CASES[1])
    for each in some(longest(lowered).task, 6):
        source = cuda_of(tvm.IRModule({"main": each.function}), TARGET)
        assert 0 < _declared(source) <= each.looked.counts.shared <= 48 << 10


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_kernels_compile_to_machine_code_where_there_is_a_compiler(precision: str, tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, INVERTED, precision)
    (each,) = some(longest(lowered).task, 1, precision)
    assert each.candidate.template == CHAIN
    try:
        compiler = find_nvcc()
    except InternalError as error:
        assert error.code == "no-nvcc"
        return
    built = build_kernel(tvm.IRModule({"main": each.function}), TARGET, tmp_path / "kernel.so", "sm_86", compiler)
    (cubin,) = built.cubins.values()
    assert cubin.code[:4] == b"\x7fELF" and 0 < cubin.shared <= 48 << 10


def _declared(source: str) -> int:
    found = re.findall(r"__shared__ .*?(\w+) \w+\[(\d+)\];", source)
    return sum(int(count) * {"float": 4, "half": 2}[kind] for kind, count in found)


def _without_halo(function: Any) -> Any:
    """The first image without every seventh row."""

    def shorter(node: Any) -> Any:
        if str(node.block.name_hint) != "pad_temp1":
            return node
        row = tirx.floormod(node.iter_values[2], tirx.const(7, "int64"))
        inside = tirx.And(node.predicate, row < tirx.const(6, "int64"))
        return SBlockRealize(node.iter_values, inside, node.block)

    return function.with_body(tvm_ffi.structural_map(function.body, (SBlockRealize, shorter)))


@pytest.mark.slow
def test_measured_times_decide_whether_a_model_gets_its_chain(compiler: None, tmp_path: Path) -> None:
    """Times are made up: first the chain's are the best, then the worst."""
    model = write_case(tmp_path / "inverted.onnx", INVERTED)
    device = devices("rtx3090")
    first = BuildOnly(job(chains=True), model, device, tmp_path / "first").run()
    assert first["chains"]["proposed"] == first["chains"]["built"] == 3
    bundle = json.loads((tmp_path / "first" / "bundle" / "bundle.json").read_text())
    of_chains = {c["task"] for c in bundle["candidates"] if c["template"] == CHAIN}
    assert len(of_chains) == 3 and of_chains < {task["hash"] for task in bundle["tasks"]}
    assert all(task["expected"] for task in bundle["tasks"])
    for faster in (True, False):
        made_up = [
            c | {"samples": [1e-6 if (c["task"] in of_chains) == faster else 9e-6], "failure": None,
                 "max_rel_error": 0.0}
            for c in bundle["candidates"]
        ]  # fmt: skip
        path = tmp_path / f"{faster}.json"
        results = {key: bundle[key] for key in ("format", "model", "arch")} | {"device": {"model": device.model}}
        path.write_text(json.dumps(results | {"results": made_up}))
        out = tmp_path / f"out-{faster}"
        report = BuildOnly(job(trials=0, chains=True), model, device, out, [path]).run()
        calls = json.loads((out / "manifest.json").read_text())["launches"]["program"]["calls"]
        blocks = report["blocks"]
        if faster:
            assert report["chains"]["calls_saved"] == 2 and len(calls) == 1
            assert [len(block["layers"]) for block in blocks] == [3] and blocks[0]["template"] == CHAIN
            assert blocks[0]["ms"] == pytest.approx(1e-3) and blocks[0]["checked_error"] < LIMIT
        else:
            assert report["chains"]["taken"] == 0 and len(calls) == len(blocks) == 3
        assert json.loads((out / "plan.json").read_text())["stages"]


def test_chains_are_left_out_where_somebody_says_so(compiler: None, tmp_path: Path) -> None:
    model = write_case(tmp_path / "inverted.onnx", INVERTED)
    report = BuildOnly(job(trials=0, chains=False), model, devices("rtx3090"), tmp_path / "out").run()
    assert report["chains"] == {"proposed": 0, "built": 0, "taken": 0, "calls_saved": 0}
    assert len(report["blocks"]) == 3
