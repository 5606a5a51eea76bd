"""kill -9 of the server, the tuner, or both, at random moments: every job ends rightly, nothing is lost or doubled."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from cli_tools import conv_net
from kill_tools import Served, torture

pytestmark = pytest.mark.alone


def _torture(folder: Path, kills: int, seed: int, db: str | None = None) -> None:
    model = conv_net(folder / "small.onnx")
    with closing(Served(folder, db=db)) as served:
        print(torture(served, model, kills, seed))


@pytest.mark.timeout(900)
def test_three_random_kills(tmp_path: Path) -> None:
    _torture(tmp_path, kills=3, seed=int(os.environ.get("FUSETUNE_KILL_SEED", "3")))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_random_kills_on_either_database(tmp_path: Path, url: str) -> None:
    _torture(tmp_path, kills=50, seed=12, db=url)
