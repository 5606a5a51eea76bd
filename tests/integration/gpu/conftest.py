"""One build for a GPU that is not here, shared by the tests that look at it. Its nvcc is a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gpu.gpu_models import job, write_network
from tests.unit.gpu.gpu_tools import RTX3090, fake_nvcc, fake_smi
from tuner.gpu import build_only
from tuner.gpu.build_only import BuildOnly
from tuner.measure.device import devices

STAND_IN = Path(__file__).with_name("stand_in_cuda.c")


@dataclass(frozen=True)
class Round:
    """A finished build."""

    model: Path
    out: Path
    report: Any


@contextmanager
def stand_in(folder: Path) -> Iterator[None]:
    """The only nvcc is a stand-in in ``folder``, and little is explored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.gpu.nvcc._candidates", lambda: [fake_nvcc(folder) / "nvcc"])
        patch.setattr(build_only, "POINTS", 4)
        patch.setattr(build_only, "KEEP", 2)
        patch.setattr(build_only, "FEWER", ())
        patch.setattr(build_only, "SPILLS", 1 << 20)  # the stand-in says of every kernel that it spills
        yield


@pytest.fixture(scope="session")
def cuda_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A folder with NVIDIA's libraries, as far as a C compiler can make them; None where there is none."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    folder = tmp_path_factory.mktemp("cuda")
    for name in ("libcuda.so.1", "libcudart.so.13"):
        command = [compiler, "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(folder / name), str(STAND_IN)]
        subprocess.run(command, check=True)
    return folder


@pytest.fixture
def gpu(cuda_libraries: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Child processes find an RTX 3090, on which launches do nothing; False where nothing can stand in for one."""
    if cuda_libraries is None:
        return False
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cuda_libraries))
    monkeypatch.setenv("PATH", os.pathsep.join([str(fake_smi(tmp_path / "smi", RTX3090)), os.environ["PATH"]]))
    return True


def unchecked(bundle: Path, most: int) -> Path:
    """The bundle with so many candidates and no references: where launches do nothing, nothing can be right."""
    known = json.loads((bundle / "bundle.json").read_text())
    known["candidates"] = known["candidates"][:most]
    known["tasks"] = [task | {"expected": None} for task in known["tasks"]]
    (bundle / "bundle.json").write_text(json.dumps(known))
    return bundle


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[None]:
    with stand_in(tmp_path / "nvcc"):
        yield


@pytest.fixture(scope="session")
def first_round(tmp_path_factory: pytest.TempPathFactory) -> Round:
    folder = tmp_path_factory.mktemp("gpu")
    model = write_network(folder / "small.onnx")
    out = folder / "out"
    with stand_in(folder / "nvcc"):
        return Round(model, out, BuildOnly(job(), model, devices("rtx3090"), out).run())
