"""One build for a GPU that is not here, shared by the tests that look at it. Its nvcc is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gpu.gpu_models import job, write_network
from tests.unit.gpu.gpu_tools import fake_nvcc
from tuner.gpu import build_only
from tuner.gpu.build_only import BuildOnly
from tuner.measure.device import devices


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
