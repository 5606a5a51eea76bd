"""One small model and one tuned artifact of it, shared by all tests that only look at them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_tools import TRIALS, Tuned, conv_net, fusetune


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def net(home: Path) -> Path:
    return conv_net(home / "net.onnx")


@pytest.fixture(scope="session")
def tuned(home: Path, net: Path) -> Tuned:
    db, out = f"sqlite:///{home}/records.db", home / "tuned"
    args = ["--trials", TRIALS, "--json", "--no-baselines", "--db", db, "--out", out]
    done = fusetune(home, "tune", net, *args)
    assert done.code == 0, done.err
    return Tuned(home, net, db, out, done)
