"""The CUDA compiler: found on PATH or in a wheel, errors that name what is missing, failures of kernels as values."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.unit.gpu.gpu_tools import fake_nvcc
from tuner.errors import CandidateError, InternalError, UserError
from tuner.gpu.nvcc import compile_cubin, find_nvcc


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but what the test puts there, and no wheels."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tuner.gpu.nvcc.find_spec", lambda _: None)
    return tmp_path


def test_without_a_compiler_the_error_says_what_to_install(bare: Path) -> None:
    with pytest.raises(InternalError, match=r"pip install 'fusetune\[gpu\]'") as raised:
        find_nvcc()
    assert raised.value.code == "no-nvcc"


def test_the_nvcc_on_path_is_taken(bare: Path) -> None:
    fake_nvcc(bare)
    compiler = find_nvcc()
    assert (compiler.name, compiler.path) == ("nvcc-13.0", bare / "nvcc")
    compiler.require("sm_86")


def test_an_architecture_that_the_compiler_does_not_know_is_named(bare: Path) -> None:
    fake_nvcc(bare)
    with pytest.raises(UserError, match=r"nvcc 13\.0 .* does not know the architecture sm_70") as raised:
        find_nvcc().require("sm_70")
    assert raised.value.code == "unknown-arch"


def test_a_broken_nvcc_gives_way_to_the_wheel(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvcc(bare, broken=True)
    with pytest.raises(InternalError, match="does not work"):
        find_nvcc()
    package = bare / "wheel" / "nvidia"
    fake_nvcc(package / "cu13" / "bin")
    (package / "__init__.py").touch()
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(bare))
    monkeypatch.syspath_prepend(str(bare / "wheel"))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert find_nvcc().path == package / "cu13" / "bin" / "nvcc"


def test_what_the_assembler_says_of_a_kernel_is_kept(bare: Path) -> None:
    fake_nvcc(bare)
    cubin = compile_cubin("__global__ void main_kernel() {}", "sm_86", find_nvcc())
    assert cubin.code == b"cubin of sm_86\n"
    assert (cubin.registers, cubin.shared, cubin.spills) == (96, 32448, 2368 + 2084)


def test_a_kernel_that_nvcc_refuses_is_a_failed_candidate(bare: Path) -> None:
    fake_nvcc(bare)
    with pytest.raises(CandidateError, match="too many arguments in function call") as raised:
        compile_cubin("refuse me", "sm_86", find_nvcc())
    assert raised.value.code == "build-failed"
