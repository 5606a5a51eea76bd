"""A bundle for a GPU measured to the end by TVM's own CUDA runtime, over a stand-in of NVIDIA's libraries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli import FAILURE, main
from tests.integration.gpu.conftest import Round, unchecked
from tests.unit.gpu.gpu_tools import fake_nvcc
from tuner.gpu.bundle_run import measure


def test_cubins_of_a_bundle_reach_the_driver_and_results_come_back(
    gpu: bool, first_round: Round, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not gpu:
        return  # nothing here can stand in for a GPU
    folder = unchecked(shutil.copytree(first_round.out / "bundle", tmp_path / "bundle"), 3)
    results = measure(folder)
    assert results["device"]["model"] == "NVIDIA GeForce RTX 3090"
    assert (results["device"]["arch"], results["device"]["sms"]) == ("sm_86", 82)
    assert [r["failure"] for r in results["results"]] == [None] * 3
    assert capfd.readouterr().err.count("loaded cubin of sm_8") == 3


def test_a_kernel_that_computes_something_else_is_wrong(gpu: bool, first_round: Round, tmp_path: Path) -> None:
    if not gpu:
        return
    folder = shutil.copytree(first_round.out / "bundle", tmp_path / "bundle")
    out = tmp_path / "results.json"
    assert main(["measure", str(folder), "--out", str(out)]) == 0
    kinds = {r["failure"]["kind"] for r in json.loads(out.read_text())["results"]}
    assert kinds == {"wrong"}


def test_a_bundle_for_another_architecture_is_refused(
    gpu: bool, first_round: Round, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not gpu:
        return
    folder = shutil.copytree(first_round.out / "bundle", tmp_path / "bundle")
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"arch": "sm_86"', '"arch": "sm_90"'))
    assert main(["measure", str(folder)]) == FAILURE
    assert "compiled for sm_90; the GPU here, NVIDIA GeForce RTX 3090, is sm_86" in capfd.readouterr().err


# Where a driver is, TVM compiles while it builds, and with NVRTC unless it is told otherwise.
BUILDING = """
import sys
from pathlib import Path
import tvm
from tests.unit.designs.design_functions import matmul
from tuner.errors import CandidateError
from tuner.gpu.cuda import build_kernel, target_of, with_defaults
from tuner.gpu.nvcc import find_nvcc
from tuner.measure.device import devices

target, folder = target_of(devices("rtx3090")), Path(sys.argv[1])
module = with_defaults(matmul(), target)
built = build_kernel(module, target, folder / "kernel.so", "sm_86", find_nvcc())
print(len(built.cubins), all(cubin.code.startswith(b"cubin of sm_86") for cubin in built.cubins.values()))
"""


def test_kernels_are_compiled_by_our_compiler_where_a_gpu_is_too(gpu: bool, tmp_path: Path) -> None:
    if not gpu:
        return
    path = os.pathsep.join([str(fake_nvcc(tmp_path / "nvcc")), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", BUILDING, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "True"], done.stderr[-2000:]
