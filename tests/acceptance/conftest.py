"""One small model and one tuned artifact of it, shared by all tests that only look at them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from cli_tools import Done, conv_net, fusetune

TRIALS = 8


class Tuned(NamedTuple):
    """What ``fusetune tune`` left."""

    home: Path  # where it ran: model, database and artifact stand here
    model: Path
    db: str
    out: Path
    done: Done

    def again(self, *more: object, out: Path) -> Done:
        """Tune the same model into another folder, with the same database."""
        return fusetune(self.home, "tune", self.model, "--json", "--no-baselines", "--db", self.db, "--out", out, *more)


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
